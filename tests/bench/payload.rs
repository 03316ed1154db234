//! A large image made in memory: files of mixed sizes whose content shrinks to about a third, in five layers.

use anyhow::Result;
use longshore_tests::image::{Image, ImageBuilder, Layer, Packing};

const LAYERS: usize = 5;
/// Uncompressed bytes for each compressed one.
const RATIO: f64 = 3.26;

/// An image whose layers take about `mib` MiB as gzip.
pub fn image(mib: usize) -> Result<Image> {
    let size = ((mib << 20) as f64 * RATIO) as usize / LAYERS;
    let mut builder = ImageBuilder::new();
    for number in 0..LAYERS {
        builder = builder.packed_layer(layer(number, size).bytes(), Packing::Gzip);
    }
    builder.build()
}

/// Compressed size of the image's layers, in MiB.
pub fn size(image: &Image) -> f64 {
    let layers = image.layer_digests.iter().filter_map(|digest| image.blobs.get(digest));
    layers.map(bytes::Bytes::len).sum::<usize>() as f64 / f64::from(1 << 20)
}

fn layer(number: usize, size: usize) -> Layer {
    let mut random = Random(0x9e37_79b9 + number as u64);
    let mut layer = Layer::new();
    let (mut written, mut files) = (0, 0);
    while written < size {
        if files % 50 == 0 {
            layer = layer.dir(&format!("l{number}/d{}/", files / 50), 0o755);
        }
        // Most files are small, most bytes are in large ones, as in a distribution's tree.
        let length = match random.next() % 20 {
            0 => 1 << 20,
            1..=4 => 128 << 10,
            _ => (random.next() % (16 << 10)) as usize,
        };
        layer = layer.file(&format!("l{number}/d{}/f{files}", files / 50), 0o644, &random.content(length));
        (written, files) = (written + length, files + 1);
    }
    layer
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Blocks of noise between blocks of words.
    fn content(&mut self, length: usize) -> Vec<u8> {
        const WORDS: [&[u8]; 8] =
            [b"container ", b"snapshot ", b"layer ", b"the ", b"daemon\n", b"of ", b"kernel ", b"and "];
        let mut bytes = Vec::with_capacity(length + 1024);
        while bytes.len() < length {
            let end = bytes.len() + 512;
            let noise = self.next() % 100 < 24;
            while bytes.len() < end {
                if noise {
                    bytes.extend_from_slice(&self.next().to_le_bytes());
                } else {
                    bytes.extend_from_slice(WORDS[(self.next() % 8) as usize]);
                }
            }
        }
        bytes.truncate(length);
        bytes
    }
}
