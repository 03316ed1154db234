//! Random namespaces, and what of them must stay: containerd's rules as its clients know them, written down again, so that
//! the collector is not measured by its own code.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    Content(usize),
    Snapshot(usize),
    Image(usize),
    Container(usize),
    Lease(usize),
    Ingest(usize),
}

/// A label: `gc.ref…` on what refers, or `gc.bref…` on what is kept.
#[derive(Clone, Copy, Debug)]
pub enum Reference {
    To(Thing),
    From(Thing),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expire {
    Never,
    Past,
    Future,
    /// A text that is no time.
    Nonsense,
}

#[derive(Clone, Debug)]
pub struct Content {
    pub root: bool,
    pub references: Vec<Reference>,
}

#[derive(Clone, Debug)]
pub struct Snapshot {
    pub native: bool,
    /// Only of the same snapshotter, and made before.
    pub parent: Option<usize>,
    pub root: bool,
    pub references: Vec<Reference>,
}

#[derive(Clone, Debug)]
pub struct Image {
    pub target: usize,
    pub expire: Expire,
    /// Means nothing here: it is for content and snapshots.
    pub root: bool,
    pub references: Vec<Reference>,
}

#[derive(Clone, Debug)]
pub struct Container {
    pub snapshot: Option<usize>,
    pub references: Vec<Reference>,
}

#[derive(Clone, Debug)]
pub struct Lease {
    pub expire: Expire,
    pub flat: bool,
    pub holds: Vec<Thing>,
}

#[derive(Clone, Debug)]
pub struct Ingest {
    pub expected: Option<usize>,
    /// Nobody wrote to it for more than a day.
    pub old: bool,
}

/// A namespace to be made, and what is deleted from it between two collections.
#[derive(Clone, Debug)]
pub struct Plan {
    pub contents: Vec<Content>,
    pub snapshots: Vec<Snapshot>,
    pub images: Vec<Image>,
    pub containers: Vec<Container>,
    pub leases: Vec<Lease>,
    pub ingests: Vec<Ingest>,
    pub deletions: Vec<Thing>,
}

impl Plan {
    pub fn all(&self) -> BTreeSet<Thing> {
        let count = |length: usize, make: fn(usize) -> Thing| (0..length).map(make);
        count(self.contents.len(), Thing::Content)
            .chain(count(self.snapshots.len(), Thing::Snapshot))
            .chain(count(self.images.len(), Thing::Image))
            .chain(count(self.containers.len(), Thing::Container))
            .chain(count(self.leases.len(), Thing::Lease))
            .chain(count(self.ingests.len(), Thing::Ingest))
            .collect()
    }

    /// What of `there` a collection leaves.
    pub fn kept(&self, there: &BTreeSet<Thing>) -> BTreeSet<Thing> {
        // Held with everything that it refers to, or for itself alone.
        let (mut whole, mut alone) = (BTreeSet::new(), BTreeSet::new());
        for &thing in there {
            if let Thing::Lease(index) = thing {
                let lease = &self.leases[index];
                if lease.expire != Expire::Past {
                    whole.insert(thing);
                    if lease.flat { &mut alone } else { &mut whole }.extend(&lease.holds);
                }
            }
            if self.is_root(thing) {
                whole.insert(thing);
            }
        }
        loop {
            let before = (whole.len(), alone.len());
            for thing in whole.clone() {
                whole.extend(self.needs(thing, there));
                whole.extend(self.refers(thing, there));
                whole.extend(there.iter().filter(|other| self.is_kept_by(**other, thing)));
            }
            for thing in alone.clone() {
                // An ingest is never held without the blob that it is going to be.
                let needs = self.needs(thing, there);
                if matches!(thing, Thing::Ingest(_)) { &mut whole } else { &mut alone }.extend(needs);
            }
            if before == (whole.len(), alone.len()) {
                break;
            }
        }
        whole.union(&alone).copied().filter(|thing| there.contains(thing)).collect()
    }

    fn is_root(&self, thing: Thing) -> bool {
        match thing {
            Thing::Content(index) => self.contents[index].root,
            Thing::Snapshot(index) => self.snapshots[index].root,
            Thing::Image(index) => self.images[index].expire != Expire::Past,
            Thing::Container(_) => true,
            Thing::Ingest(index) => !self.ingests[index].old,
            Thing::Lease(_) => false,
        }
    }

    /// What it is nothing without.
    fn needs(&self, thing: Thing, there: &BTreeSet<Thing>) -> Option<Thing> {
        if !there.contains(&thing) {
            return None;
        }
        match thing {
            Thing::Snapshot(index) => self.snapshots[index].parent.map(Thing::Snapshot),
            Thing::Image(index) => Some(Thing::Content(self.images[index].target)),
            Thing::Container(index) => self.containers[index].snapshot.map(Thing::Snapshot),
            Thing::Ingest(index) => self.ingests[index].expected.map(Thing::Content),
            Thing::Content(_) | Thing::Lease(_) => None,
        }
    }

    pub fn references(&self, thing: Thing) -> &[Reference] {
        match thing {
            Thing::Content(index) => &self.contents[index].references,
            Thing::Snapshot(index) => &self.snapshots[index].references,
            Thing::Image(index) => &self.images[index].references,
            Thing::Container(index) => &self.containers[index].references,
            Thing::Lease(_) | Thing::Ingest(_) => &[],
        }
    }

    fn refers(&self, thing: Thing, there: &BTreeSet<Thing>) -> Vec<Thing> {
        let labels = if there.contains(&thing) { self.references(thing) } else { &[] };
        let to = |reference: &Reference| match *reference {
            Reference::To(to) => Some(to),
            Reference::From(_) => None,
        };
        labels.iter().filter_map(to).collect()
    }

    /// Whether `thing` says by a back reference that `by` keeps it; `by` itself need not be there any more.
    fn is_kept_by(&self, thing: Thing, by: Thing) -> bool {
        self.references(thing)
            .iter()
            .any(|reference| matches!(reference, Reference::From(from) if *from == by))
    }
}

/// Numbers of contents, snapshots, images and containers that labels may name.
type Sizes = (usize, usize, usize, usize);

fn target((contents, snapshots, images, _): Sizes) -> BoxedStrategy<Thing> {
    let mut choices = vec![(0..contents).prop_map(Thing::Content).boxed()];
    if snapshots > 0 {
        choices.push((0..snapshots).prop_map(Thing::Snapshot).boxed());
    }
    if images > 0 {
        choices.push((0..images).prop_map(Thing::Image).boxed());
    }
    proptest::strategy::Union::new(choices).boxed()
}

fn references(sizes: Sizes) -> BoxedStrategy<Vec<Reference>> {
    let mut back = vec![target(sizes)];
    if sizes.3 > 0 {
        back.push((0..sizes.3).prop_map(Thing::Container).boxed());
    }
    let back = proptest::strategy::Union::new(back);
    let one = prop_oneof![target(sizes).prop_map(Reference::To), back.prop_map(Reference::From)];
    vec(one, 0..3).boxed()
}

fn expire() -> impl Strategy<Value = Expire> {
    prop_oneof![
        2 => Just(Expire::Never),
        3 => Just(Expire::Past),
        1 => Just(Expire::Future),
        1 => Just(Expire::Nonsense),
    ]
}

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.1)
}

fn snapshots(sizes: Sizes) -> impl Strategy<Value = Vec<Snapshot>> {
    let one = (any::<bool>(), any::<Option<prop::sample::Index>>(), rarely(), references(sizes));
    vec(one, sizes.1).prop_map(|raw| {
        let mut made: Vec<Snapshot> = Vec::new();
        for (native, parent, root, references) in raw {
            let parent = parent.filter(|_| !made.is_empty()).map(|index| index.index(made.len()));
            let native = parent.map_or(native, |parent| made[parent].native);
            made.push(Snapshot { native, parent, root, references });
        }
        made
    })
}

pub fn plan() -> impl Strategy<Value = Plan> {
    (1..10usize, 0..8usize, 0..4usize, 0..3usize, 0..4usize, 0..3usize)
        .prop_flat_map(|(contents, snapshot_count, images, containers, leases, ingests)| {
            let sizes = (contents, snapshot_count, images, containers);
            let held = prop_oneof![
                4 => target(sizes),
                1 => (0..ingests.max(1)).prop_map(Thing::Ingest),
            ];
            let container_snapshot = prop::option::of(0..snapshot_count.max(1))
                .prop_map(move |index| index.filter(|index| *index < snapshot_count));
            let any_of = prop_oneof![
                target(sizes),
                (0..containers.max(1)).prop_map(Thing::Container),
                (0..leases.max(1)).prop_map(Thing::Lease),
                (0..ingests.max(1)).prop_map(Thing::Ingest),
            ];
            (
                vec((rarely(), references(sizes)), contents).prop_map(|all| {
                    all.into_iter().map(|(root, references)| Content { root, references }).collect()
                }),
                snapshots(sizes),
                vec((0..contents, expire(), rarely(), references(sizes)), images).prop_map(|all| {
                    let make =
                        |(target, expire, root, references)| Image { target, expire, root, references };
                    all.into_iter().map(make).collect()
                }),
                vec((container_snapshot, references(sizes)), containers).prop_map(|all| {
                    let make = |(snapshot, references)| Container { snapshot, references };
                    all.into_iter().map(make).collect()
                }),
                vec((expire(), any::<bool>(), vec(held, 0..4)), leases).prop_map(|all| {
                    all.into_iter().map(|(expire, flat, holds)| Lease { expire, flat, holds }).collect()
                }),
                vec((prop::option::of(0..contents), any::<bool>()), ingests).prop_map(|all| {
                    all.into_iter().map(|(expected, old)| Ingest { expected, old }).collect()
                }),
                vec(any_of, 0..12),
            )
        })
        .prop_map(|(contents, snapshots, images, containers, leases, ingests, deletions)| Plan {
            contents,
            snapshots,
            images,
            containers,
            leases,
            ingests,
            deletions,
        })
}
