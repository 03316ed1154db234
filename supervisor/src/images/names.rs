//! Which records an image gets in the store, and which of them are meant: the rules of the transfer service's image stores.

#![forbid(unsafe_code)]

use jiff::Timestamp;

use super::archive::{NAME, REF_NAME};
use super::store::{Circumstances, Image, ImageStore};
use crate::content::Descriptor;
use crate::error::{Error, Result};
use crate::labels::Labels;
use crate::leases::EXPIRE;
use crate::namespaces::Namespace;

/// An image that goes with another one when that is deleted.
const BACK_REFERENCE: &str = "containerd.io/gc.bref.image";

/// Where images are stored, or looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Store {
    /// May be empty.
    pub name: String,
    /// Of the images that are stored.
    pub labels: Labels,
    pub extra: Vec<Extra>,
}

/// A further name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extra {
    pub name: String,
    /// It stands before a tag, or before a digest.
    pub is_prefix: bool,
    /// A full name in an archive counts whether or not it begins with the prefix.
    pub allow_overwrite: bool,
    /// The image gets the name with its digest, too.
    pub add_digest: bool,
    /// But not if it has got another from its annotations.
    pub skip_named_digest: bool,
}

/// What an image is to be called after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedBy {
    /// The store alone.
    Store,
    /// What an archive says of it.
    Annotations,
}

impl Store {
    /// Writes the image's records, over those of the same names. None if nothing names it. The lease is the client's.
    pub async fn put(
        &self,
        images: &ImageStore,
        namespace: &Namespace,
        target: &Descriptor,
        by: NamedBy,
        lease: Option<&str>,
    ) -> Result<Vec<Image>> {
        let mut stored = Vec::new();
        for (name, labels) in self.names(target, by) {
            stored.push(put(images, namespace, &name, target, labels, lease).await?);
        }
        Ok(stored)
    }

    /// The image that is meant.
    pub fn get(&self, images: &ImageStore, namespace: &Namespace) -> Result<Image> {
        if self.name.is_empty() {
            return Err(Error::invalid("image store", "names no image"));
        }
        images.get(namespace, &self.name)
    }

    /// All images that are meant.
    pub fn look_up(&self, images: &ImageStore, namespace: &Namespace) -> Result<Vec<Image>> {
        let mut found = Vec::new();
        if !self.name.is_empty() {
            found.push(images.get(namespace, &self.name)?);
        }
        for extra in &self.extra {
            if extra.is_prefix {
                return Err(Error::Unimplemented {
                    what: format!("looking for images by the prefix {:?}", extra.name),
                });
            }
            found.push(images.get(namespace, &extra.name)?);
        }
        if found.is_empty() {
            return Err(Error::invalid("image store", "names no image"));
        }
        Ok(found)
    }

    fn names(&self, target: &Descriptor, by: NamedBy) -> Vec<(String, Labels)> {
        let with_digest = |prefix: &str| format!("{prefix}@{}", target.digest);
        let mut names = Vec::new();
        match by {
            NamedBy::Store => {
                if !self.name.is_empty() {
                    names.push((self.name.clone(), self.labels.clone()));
                }
                // A prefix alone is no name.
                for extra in self.extra.iter().filter(|extra| extra.add_digest || !extra.is_prefix) {
                    let name = if extra.add_digest { with_digest(&extra.name) } else { extra.name.clone() };
                    names.push((name, self.extra_labels()));
                }
            }
            NamedBy::Annotations => {
                for extra in self.extra.iter().filter(|extra| extra.is_prefix) {
                    let named = extra.name_of(&target.annotations);
                    let digest = extra.add_digest && !(named.is_some() && extra.skip_named_digest);
                    names.extend(named.map(|name| (name, self.extra_labels())));
                    if digest {
                        names.push((with_digest(&extra.name), self.extra_labels()));
                    }
                }
            }
        }
        names
    }

    // Beside a name of its own, the others live only as long as that.
    fn extra_labels(&self) -> Labels {
        let mut labels = self.labels.clone();
        if !self.name.is_empty() {
            labels.insert(BACK_REFERENCE.to_owned(), self.name.clone());
            let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
            labels.insert(EXPIRE.to_owned(), now.to_string());
        }
        labels
    }
}

impl Extra {
    // The name that annotations give below the prefix.
    fn name_of(&self, annotations: &Labels) -> Option<String> {
        if self.name.is_empty() {
            return None;
        }
        let whole = |name: &str| name.contains(['/', ':', '@']);
        let mine = |name: &str| self.allow_overwrite || is_below(name, &self.name);
        match annotations.get(NAME).filter(|name| !name.is_empty()) {
            // A full name is taken as it is, or not at all.
            Some(name) => (whole(name) && mine(name)).then(|| name.clone()),
            None => match annotations.get(REF_NAME).filter(|name| !name.is_empty()) {
                Some(name) if whole(name) => mine(name).then(|| name.clone()),
                Some(tag) => Some(format!("{}:{tag}", self.name)),
                None => None,
            },
        }
    }
}

fn is_below(name: &str, prefix: &str) -> bool {
    let rest = name.strip_prefix(prefix);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

async fn put(
    images: &ImageStore,
    namespace: &Namespace,
    name: &str,
    target: &Descriptor,
    labels: Labels,
    lease: Option<&str>,
) -> Result<Image> {
    let now = || Circumstances { lease, ..Circumstances::default() };
    // Somebody else may create or delete it in between, but not for ever.
    const ATTEMPTS: usize = 16;
    let mut last = Error::not_found("image", name);
    for _ in 0..ATTEMPTS {
        match images.create(namespace, name, target.clone(), labels.clone(), now()).await {
            Err(Error::AlreadyExists { .. }) => {}
            created => return created,
        }
        match images.update(namespace, name, Some(target.clone()), labels.clone(), &[], now()).await {
            Err(error @ Error::NotFound { .. }) => last = error,
            updated => return updated,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;

    fn target(annotations: &[(&str, &str)]) -> Descriptor {
        let annotations = annotations.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Descriptor { media_type: "m".into(), digest: Digest::of(b"x"), size: 1, annotations }
    }

    fn store(name: &str, extra: Extra) -> Store {
        Store { name: name.into(), labels: Labels::new(), extra: vec![extra] }
    }

    fn prefix(name: &str, allow_overwrite: bool, add_digest: bool, skip_named_digest: bool) -> Extra {
        Extra { name: name.into(), is_prefix: true, allow_overwrite, add_digest, skip_named_digest }
    }

    fn names(store: &Store, annotations: &[(&str, &str)], by: NamedBy) -> Vec<String> {
        let target = target(annotations);
        let short = format!("@{}", target.digest);
        store.names(&target, by).into_iter().map(|(name, _)| name.replace(&short, "@D")).collect()
    }

    #[test]
    fn archives_name_their_images() {
        use NamedBy::Annotations;
        let full = [(NAME, "registry.test/app:1"), (REF_NAME, "1")];
        let tag = [(REF_NAME, "best")];
        assert_eq!(
            names(&store("", prefix("import", true, false, false)), &full, Annotations),
            ["registry.test/app:1"]
        );
        assert!(names(&store("", prefix("other", false, false, false)), &full, Annotations).is_empty());
        assert!(
            names(&store("", prefix("registry.test/ap", false, false, false)), &full, Annotations).is_empty()
        );
        let own = prefix("registry.test/app", false, false, false);
        assert_eq!(names(&store("", own.clone()), &full, Annotations), ["registry.test/app:1"]);
        assert_eq!(names(&store("", own.clone()), &tag, Annotations), ["registry.test/app:best"]);
        assert!(names(&store("", own), &[], Annotations).is_empty());
        let both = prefix("p", true, true, false);
        assert_eq!(names(&store("", both.clone()), &full, Annotations), ["registry.test/app:1", "p@D"]);
        assert_eq!(names(&store("", both), &[], Annotations), ["p@D"]);
        let skip = prefix("p", true, true, true);
        assert_eq!(names(&store("", skip.clone()), &full, Annotations), ["registry.test/app:1"]);
        assert_eq!(names(&store("", skip), &[], Annotations), ["p@D"]);
        // An incomplete full name is none.
        assert!(
            names(&store("", prefix("p", true, false, false)), &[(NAME, "short")], Annotations).is_empty()
        );
    }

    #[test]
    fn further_names_go_with_the_first() {
        let extra = Extra { name: "b:1".into(), ..Extra::default() };
        let named = store("a:1", extra).names(&target(&[]), NamedBy::Store);
        assert_eq!(named[0], ("a:1".to_owned(), Labels::new()));
        assert_eq!(named[1].0, "b:1");
        assert_eq!(named[1].1.get(BACK_REFERENCE).map(String::as_str), Some("a:1"));
        assert!(named[1].1.contains_key(EXPIRE));
        let digests = store("", prefix("p", false, true, true));
        assert_eq!(names(&digests, &[], NamedBy::Store), ["p@D"]);
        assert!(names(&store("", prefix("p", false, false, false)), &[], NamedBy::Store).is_empty());
    }
}
