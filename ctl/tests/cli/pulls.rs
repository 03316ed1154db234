//! Pulls as a log shows them, and who gets to see them.

use crate::call;
use crate::engine::Engine;

const LINES: &str = "latest: Pulling from library/hello-world\n\
    aaaaaaaaaaaa: Pulling fs layer\n\
    bbbbbbbbbbbb: Already exists\n\
    aaaaaaaaaaaa: Download complete\n\
    aaaaaaaaaaaa: Pull complete\n\
    Digest: sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\n\
    Status: Downloaded newer image for hello-world:latest\n";

#[test]
fn pull_prints_a_line_for_each_step() {
    let engine = Engine::start();
    let said = call(&engine, &["pull", "hello-world"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out, format!("Using default tag: latest\n{LINES}docker.io/library/hello-world:latest\n"));
    assert_eq!(said.err, "");
    assert!(!call(&engine, &["pull", "hello-world:latest"]).out.contains("Using default tag"));
    let said = call(&engine, &["pull", "-q", "hello-world"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("docker.io/library/hello-world:latest\n", ""));
}

#[test]
fn run_pulls_on_stderr_and_prints_only_what_the_container_prints_on_stdout() {
    let engine = Engine::start();
    let said = call(&engine, &["run", "hello-world", "both"]);
    assert_eq!((said.code, said.out.as_str()), (0, "to stdout\n"));
    assert_eq!(said.err, format!("Unable to find image 'hello-world:latest' locally\n{LINES}to stderr\n"));
    let said = call(&engine, &["run", "-q", "hello-world", "both"]);
    assert_eq!(said.err, "to stderr\n");
}

#[test]
fn a_pull_that_breaks_off_is_an_error() {
    let engine = Engine::start();
    let said = call(&engine, &["pull", "broken"]);
    assert_eq!((said.code, said.err.as_str()), (1, "Error response from daemon: registry answered 500\n"));
}

#[test]
fn of_an_image_that_is_up_to_date_no_layers_are_listed() {
    let engine = Engine::start();
    let said = call(&engine, &["pull", "known"]);
    assert_eq!(
        said.out,
        "Using default tag: latest\n\
         latest: Pulling from library/hello-world\n\
         Digest: sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd\n\
         Status: Image is up to date for hello-world:latest\n\
         docker.io/library/hello-world:latest\n"
    );
}
