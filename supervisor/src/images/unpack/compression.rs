//! How a layer is compressed: what its media type says, checked against how it begins.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, BufReader, Cursor, Read};

use super::error::UnpackError;

/// The largest window a zstd frame may ask memory for: 2^27 bytes, as the zstd program's default.
const ZSTD_WINDOW_LOG: u32 = 27;
const BUFFER: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// Of a layer's media type, OCI's or Docker's. Those that are not layers of this kind are an error.
    pub fn of_media_type(media_type: &str) -> Result<Compression, UnpackError> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Compression::Plain),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Ok(Compression::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Compression::Zstd),
            other => Err(UnpackError::MediaType(other.chars().take(200).collect())),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Compression::Plain => "tar",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// A stream of the layer's tar bytes.
pub type Inflater<'a> = Box<dyn Read + Send + 'a>;

/// Opens a layer. The first bytes decide, as with other engines, since media types are often wrong about compression; but what
/// is declared compressed and is not compressed at all is an error.
pub fn open<'a>(
    mut source: impl Read + Send + 'a,
    declared: Compression,
) -> io::Result<(Inflater<'a>, Compression)> {
    let mut start = [0; 4];
    let mut filled = 0;
    while filled < start.len() {
        match source.read(&mut start[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let actual = match &start[..filled] {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Compression::Zstd,
        _ => Compression::Plain,
    };
    if actual == Compression::Plain && declared != Compression::Plain {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not begin like one"));
    }
    let source = BufReader::with_capacity(BUFFER, Cursor::new(start).take(filled as u64).chain(source));
    let inflater: Inflater<'a> = match actual {
        Compression::Plain => Box::new(source),
        // Several members are one stream; anything else after a member is an error.
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Compression::Zstd => Box::new(zstd(source)?),
    };
    Ok((inflater, actual))
}

fn zstd<'a>(source: impl BufRead + Send + 'a) -> io::Result<impl Read + Send + 'a> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
}
