//! Makes OCI and Docker images in memory, well-formed or deliberately not, from lists of tar entries.
//!
//! Nothing here is fetched: the one program that images need, busybox, is the host's static one.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// How a layer's tar is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    Gzip,
    Zstd,
    Plain,
}

/// Which family of media types an image uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    Oci,
    Docker,
}

impl Flavour {
    pub fn manifest(self) -> &'static str {
        match self {
            Flavour::Oci => "application/vnd.oci.image.manifest.v1+json",
            Flavour::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    pub fn index(self) -> &'static str {
        match self {
            Flavour::Oci => "application/vnd.oci.image.index.v1+json",
            Flavour::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Flavour::Oci => "application/vnd.oci.image.config.v1+json",
            Flavour::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self, packing: Packing) -> &'static str {
        match (self, packing) {
            (Flavour::Oci, Packing::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip",
            (Flavour::Oci, Packing::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd",
            (Flavour::Oci, Packing::Plain) => "application/vnd.oci.image.layer.v1.tar",
            (Flavour::Docker, Packing::Gzip) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            (Flavour::Docker, Packing::Zstd) => "application/vnd.docker.image.rootfs.diff.tar.zstd",
            (Flavour::Docker, Packing::Plain) => "application/vnd.docker.image.rootfs.diff.tar",
        }
    }
}

/// A layer under construction: a tar that is written entry by entry, names taken as they are given.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Layer::new()
    }
}

impl Layer {
    pub fn new() -> Self {
        Layer { tar: tar::Builder::new(Vec::new()) }
    }

    /// Adds an entry whose name may be hostile: it is written into the header byte for byte.
    pub fn raw(
        mut self,
        name: &str,
        kind: tar::EntryType,
        mode: u32,
        owner: (u64, u64),
        link: &str,
        data: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        let fields = header.as_old_mut();
        assert!(
            name.len() <= fields.name.len() && link.len() <= fields.linkname.len(),
            "name fits the header"
        );
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.tar.append(&header, data).expect("writing to memory");
        self
    }

    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.raw(name, tar::EntryType::Directory, mode, (0, 0), "", b"")
    }

    pub fn file(self, name: &str, mode: u32, data: &[u8]) -> Self {
        self.raw(name, tar::EntryType::Regular, mode, (0, 0), "", data)
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(name, tar::EntryType::Symlink, 0o777, (0, 0), target, b"")
    }

    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(name, tar::EntryType::Link, 0o644, (0, 0), target, b"")
    }

    /// Adds a whole folder of the host below `/` of the image.
    pub fn tree(mut self, folder: &Path) -> Result<Self> {
        self.tar.follow_symlinks(false);
        self.tar.append_dir_all(".", folder).with_context(|| format!("packing {}", folder.display()))?;
        Ok(self)
    }

    /// The uncompressed tar.
    pub fn bytes(self) -> Vec<u8> {
        self.tar.into_inner().expect("writing to memory")
    }
}

/// Packs a tar.
pub fn pack(tar: &[u8], packing: Packing) -> Result<Vec<u8>> {
    Ok(match packing {
        Packing::Plain => tar.to_vec(),
        Packing::Gzip => {
            let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
            out.write_all(tar)?;
            out.finish()?
        }
        Packing::Zstd => zstd::encode_all(tar, 3)?,
    })
}

/// An image for one platform: blobs by digest, and the manifest that names them.
#[derive(Clone)]
pub struct Image {
    pub blobs: BTreeMap<String, Bytes>,
    pub manifest: Bytes,
    pub media_type: &'static str,
    pub config_digest: String,
    pub layer_digests: Vec<String>,
}

impl Image {
    /// Digest of the manifest.
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }
}

/// Puts layers and a config together.
pub struct ImageBuilder {
    flavour: Flavour,
    architecture: String,
    variant: Option<String>,
    layers: Vec<(Vec<u8>, Packing)>,
    config: Value,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        ImageBuilder::new()
    }
}

impl ImageBuilder {
    pub fn new() -> Self {
        ImageBuilder {
            flavour: Flavour::Oci,
            architecture: host_architecture().to_owned(),
            variant: None,
            layers: Vec::new(),
            config: json!({}),
        }
    }

    pub fn flavour(mut self, flavour: Flavour) -> Self {
        self.flavour = flavour;
        self
    }

    pub fn architecture(mut self, architecture: &str, variant: Option<&str>) -> Self {
        self.architecture = architecture.to_owned();
        self.variant = variant.map(str::to_owned);
        self
    }

    pub fn layer(self, layer: Layer) -> Self {
        self.packed_layer(layer.bytes(), Packing::Gzip)
    }

    pub fn packed_layer(mut self, tar: Vec<u8>, packing: Packing) -> Self {
        self.layers.push((tar, packing));
        self
    }

    /// Sets a key of the config's `config` object: `Cmd`, `Env`, `Entrypoint`, `User`, …
    pub fn config(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    pub fn build(self) -> Result<Image> {
        let mut blobs = BTreeMap::new();
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        let mut layer_digests = Vec::new();
        for (tar, packing) in &self.layers {
            diff_ids.push(digest(tar));
            let blob = pack(tar, *packing)?;
            let name = digest(&blob);
            layers
                .push(json!({"mediaType": self.flavour.layer(*packing), "digest": name, "size": blob.len()}));
            layer_digests.push(name.clone());
            blobs.insert(name, Bytes::from(blob));
        }
        let mut config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": diff_ids.iter().map(|_| json!({"created_by": "longshore-tests"})).collect::<Vec<_>>(),
        });
        if let Some(variant) = &self.variant {
            config["variant"] = json!(variant);
        }
        let config = serde_json::to_vec(&config)?;
        let config_digest = digest(&config);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": self.flavour.manifest(),
            "config": {"mediaType": self.flavour.config(), "digest": config_digest, "size": config.len()},
            "layers": layers,
        }))?;
        blobs.insert(config_digest.clone(), Bytes::from(config));
        Ok(Image {
            blobs,
            manifest: Bytes::from(manifest),
            media_type: self.flavour.manifest(),
            config_digest,
            layer_digests,
        })
    }
}

/// The host's architecture in the image specification's words.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

const BUSYBOX_PATHS: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// The layer of a small system: the host's static busybox under its usual names, and the files of /etc.
pub fn busybox_layer() -> Result<Layer> {
    let Some(path) = BUSYBOX_PATHS.iter().find(|path| Path::new(path).exists()) else {
        bail!("images are made from the package busybox-static, which is not installed");
    };
    let busybox = std::fs::read(path)?;
    let names = std::process::Command::new(path).arg("--list").output()?.stdout;
    let mut layer = Layer::new();
    for (name, mode) in [
        ("bin/", 0o755),
        ("etc/", 0o755),
        ("tmp/", 0o1777),
        ("root/", 0o700),
        ("home/", 0o755),
        ("var/", 0o755),
    ] {
        layer = layer.dir(name, mode);
    }
    layer = layer
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nuser:x:1000:1000::/home:/bin/sh\n",
        )
        .file("etc/group", 0o644, b"root:x:0:\nwww-data:x:33:\nuser:x:1000:\nextra:x:2000:user\n")
        .file("bin/busybox", 0o755, &busybox);
    for name in String::from_utf8_lossy(&names).lines().filter(|name| *name != "busybox") {
        layer = layer.symlink(&format!("bin/{name}"), "busybox");
    }
    Ok(layer)
}

/// A ready busybox image: PATH set, `sh` as its command.
pub fn busybox() -> Result<ImageBuilder> {
    Ok(ImageBuilder::new()
        .layer(busybox_layer()?)
        .config("Env", json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]))
        .config("Cmd", json!(["sh"])))
}

/// An image of one static program that is its entrypoint.
pub fn single_program(name: &str, program: &[u8]) -> ImageBuilder {
    ImageBuilder::new()
        .layer(Layer::new().file(name, 0o755, program))
        .config("Cmd", json!([format!("/{name}")]))
}
