//! A registry on loopback with two images, `library/hello-world` and `library/busybox`, until it is told to end.
//!
//! usage: longshore-registry HELLO-PROGRAM [PORT]. Prints `127.0.0.1:PORT`; ends at the end of its stdin.

use std::fs;
use std::io::Read;

use anyhow::{Context, Result};
use longshore_tests::image;
use longshore_tests::registry::Registry;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let hello = args.next().context("usage: longshore-registry HELLO-PROGRAM [PORT]")?;
    let port = args.next().map_or(Ok(0), |port| port.parse().context("PORT is 0 to 65535"))?;
    let registry = Registry::start_on(([127, 0, 0, 1], port).into())?;
    let program = fs::read(&hello).with_context(|| format!("reading {hello}"))?;
    registry.put("library/hello-world", "latest", &image::single_program("hello", &program).build()?);
    registry.put("library/busybox", "latest", &image::busybox()?.build()?);
    println!("{}", registry.address());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
