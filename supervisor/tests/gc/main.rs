//! The collector against a model, among clients that work meanwhile, and killed in the midst of a sweep.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod crash;
mod model;
mod pulls;
mod world;

use std::collections::BTreeSet;

use common::{Clients, Daemon};
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use model::{Plan, Thing};
use world::World;

/// Random namespaces; `LONGSHORE_GC_CASES` says otherwise.
const CASES: u32 = 60;

/// Collects only when it is told to.
const QUIET: &str = "[gc]\ndelay_ms = 3600000\ninterval_seconds = 0\n";

fn difference(found: &BTreeSet<Thing>, wanted: &BTreeSet<Thing>) -> Result<(), TestCaseError> {
    let lost: Vec<_> = wanted.difference(found).collect();
    let left: Vec<_> = found.difference(wanted).collect();
    if lost.is_empty() && left.is_empty() {
        return Ok(());
    }
    Err(TestCaseError::fail(format!("collected, but reachable: {lost:?}; left, but unreachable: {left:?}")))
}

async fn check(daemon: &Daemon, clients: Clients, plan: &Plan) -> Result<(), TestCaseError> {
    let failed = |status: tonic::Status| TestCaseError::fail(status.to_string());
    let mut world = World::make(clients, &daemon.root(), plan).await.map_err(failed)?;
    difference(&world.observe().await.map_err(failed)?, &world.there)?;
    world.clients.collect().await;
    world.there = plan.kept(&world.there);
    difference(&world.observe().await.map_err(failed)?, &world.there)?;
    for thing in &plan.deletions {
        world.delete(*thing).await.map_err(failed)?;
    }
    world.clients.collect().await;
    world.there = plan.kept(&world.there);
    difference(&world.observe().await.map_err(failed)?, &world.there)?;
    // Nothing but what labels itself a root is left when all roots are deleted, on disk either.
    for thing in world.there.clone().into_iter().rev() {
        world.delete(thing).await.map_err(failed)?;
    }
    world.clients.collect().await;
    world.there = plan.kept(&world.there);
    difference(&world.observe().await.map_err(failed)?, &world.there)
}

#[test]
fn exactly_the_unreachable_goes() {
    let cases = std::env::var("LONGSHORE_GC_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, max_shrink_iters: 300, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let daemon = Daemon::in_memory(QUIET);
    let clients = runtime.block_on(daemon.clients());
    let number = std::sync::atomic::AtomicU32::new(0);
    let outcome = TestRunner::new(config).run(&model::plan(), |plan| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        runtime.block_on(check(&daemon, clients.in_namespace(&format!("case-{number}")), &plan))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
