//! Which images there are: names that point to one image are one line.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use super::LocalImage;
use crate::engine::Engine;
use crate::engine::filters::Filters;
use crate::error::Result;
use crate::images::pull::resolve::source_label;
use crate::images::reference::Reference;
use crate::images::store::Image;

/// One image.
#[derive(Clone, Debug)]
pub struct ImageSummary {
    /// Digest of the image's config.
    pub id: String,
    /// Familiar names with tags.
    pub tags: Vec<String>,
    /// Familiar names with digests.
    pub repo_digests: Vec<String>,
    pub created_at: Timestamp,
    /// Unpacked bytes.
    pub size: u64,
    pub labels: BTreeMap<String, String>,
    /// Containers that use it.
    pub containers: u32,
}

/// The names of one image, and its parts.
pub struct Group {
    pub local: Arc<LocalImage>,
    pub names: Vec<Image>,
}

impl Engine {
    /// Newest first.
    pub async fn list_images(&self, filters: &[String]) -> Result<Vec<ImageSummary>> {
        let filters = Filters::parse(
            filters,
            &["before", "since", "dangling", "reference", "label", "label!", "until"],
        )?;
        let (before, since) =
            (self.created_of(&filters, "before").await?, self.created_of(&filters, "since").await?);
        let until = filters.until(Timestamp::now())?;
        let dangling = filters.flag("dangling")?;
        let mut found = Vec::new();
        for group in self.image_groups().await? {
            let mut summary = self.image_summary(&group).await;
            let selected = before.is_none_or(|moment| summary.created_at < moment)
                && since.is_none_or(|moment| summary.created_at > moment)
                && until.is_none_or(|moment| summary.created_at < moment)
                && dangling.is_none_or(|wanted| summary.tags.is_empty() == wanted)
                && filters.labels(|key| summary.labels.get(key))
                && keep_names(&mut summary, &filters);
            if selected {
                found.push(summary);
            }
        }
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.tags.cmp(&b.tags)));
        Ok(found)
    }

    /// All names, by image.
    pub async fn image_groups(&self) -> Result<Vec<Group>> {
        let mut groups: HashMap<String, Group> = HashMap::new();
        for image in self.all_images()? {
            // What cannot be read for this platform is no image that can be run here: containerd's clients see it.
            let Ok(local) = self.open_image(&image, "").await else { continue };
            let group = groups
                .entry(local.id.as_str().to_owned())
                .or_insert_with(|| Group { local, names: Vec::new() });
            group.names.push(image);
        }
        Ok(groups.into_values().collect())
    }

    pub(super) async fn image_summary(&self, group: &Group) -> ImageSummary {
        let (mut tags, mut repo_digests) = (Vec::new(), Vec::new());
        let named = |image: &&Image| !super::naming::is_nameless(&image.name);
        for image in group.names.iter().filter(named) {
            let Ok(reference) = Reference::parse(&image.name) else { continue };
            if reference.digest().is_none() {
                tags.push(reference.familiar());
            }
            if self.is_known_by_digest(image, &reference) {
                repo_digests.push(format!("{}@{}", reference.familiar_name(), image.target.digest));
            }
        }
        tags.sort();
        repo_digests.sort();
        repo_digests.dedup();
        let id = group.local.id.as_str().to_owned();
        let containers =
            self.registry.all().iter().filter(|entry| entry.read(|record| record.image_id == id)).count();
        let newest = group.names.iter().map(|image| image.created_at).max();
        ImageSummary {
            tags,
            repo_digests,
            created_at: group.local.created.or(newest).unwrap_or_default(),
            size: self.image_size(&group.local).await,
            labels: group.local.config.labels.clone(),
            containers: u32::try_from(containers).unwrap_or(u32::MAX),
            id,
        }
    }

    /// Whether the image has its digest in the repository of that name: it came from there, or was sent there.
    pub fn is_known_by_digest(&self, image: &Image, name: &Reference) -> bool {
        let (key, repository) = source_label(name);
        let info = self.content.info(&self.namespace, &image.target.digest);
        name.digest().is_some()
            || info.is_ok_and(|info| {
                let known = info.labels.get(&key).map(String::as_str).unwrap_or_default();
                known.split(',').any(|known| known == repository)
            })
    }

    /// Bytes of the unpacked layers; of the packed ones where it is not unpacked.
    pub async fn image_size(&self, local: &LocalImage) -> u64 {
        let packed = local.layers.iter().map(|layer| u64::try_from(layer.size).unwrap_or(0)).sum();
        let (Some(chain), Ok(snapshotter)) = (&local.chain_id, self.snapshotter()) else { return packed };
        let (mut key, mut total) = (chain.clone(), 0);
        loop {
            match snapshotter.usage(&self.namespace, &key).await {
                Ok(usage) => total += usage.size,
                Err(_) => return if total == 0 { packed } else { total },
            }
            match snapshotter.stat(&self.namespace, &key).await {
                Ok(info) if info.parent.as_ref().is_some_and(|parent| !parent.is_empty()) => {
                    key = info.parent.unwrap_or_default();
                }
                _ => return total,
            }
        }
    }

    async fn created_of(&self, filters: &Filters, key: &str) -> Result<Option<Timestamp>> {
        let Some(text) = filters.values(key).last() else { return Ok(None) };
        let (image, _) = self.find_image(text).await?;
        let local = self.open_image(&image, "").await?;
        Ok(Some(local.created.unwrap_or(image.created_at)))
    }
}

/// Leaves an image the names that the reference filter selects; false if it had some and none is left.
fn keep_names(summary: &mut ImageSummary, filters: &Filters) -> bool {
    if filters.values("reference").is_empty() {
        return true;
    }
    let selected = |name: &String| filters.any("reference", |pattern| matches_reference(pattern, name));
    summary.tags.retain(selected);
    let tags = &summary.tags;
    let of_a_tag = |name: &String| tags.iter().any(|tag| repository(tag) == repository(name));
    summary.repo_digests.retain(|name| selected(name) || of_a_tag(name));
    !summary.tags.is_empty() || !summary.repo_digests.is_empty()
}

/// Docker's reference filter: shell patterns (`*`, `?`) over the name, with or without its tag.
fn matches_reference(pattern: &str, name: &str) -> bool {
    let bare = name.split('@').next().unwrap_or(name);
    glob(pattern, name) || glob(pattern, bare) || glob(pattern, repository(name))
}

/// A name without its tag and digest.
fn repository(name: &str) -> &str {
    let bare = name.split('@').next().unwrap_or(name);
    match bare.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => bare,
    }
}

fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            // As in a shell, neither stands for a slash.
            Some('?') if text[t] != '/' => (p, t) = (p + 1, t + 1),
            Some(&c) if c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((at, from)) if text[from] != '/' => {
                    star = Some((at, from + 1));
                    (p, t) = (at + 1, from + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_patterns() {
        for (pattern, name, want) in [
            ("busybox", "busybox:latest", true),
            ("busybox:latest", "busybox:latest", true),
            ("busy*", "busybox:latest", true),
            ("*:latest", "busybox:latest", true),
            ("*/app", "localhost:5000/app:1", true),
            ("busy", "busybox:latest", false),
            ("*", "a/b:1", false),
            ("?usybox", "busybox:latest", true),
        ] {
            assert_eq!(matches_reference(pattern, name), want, "{pattern} {name}");
        }
    }
}
