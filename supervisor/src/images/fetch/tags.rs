//! The tags of a repository, page by page.
//!
//! What always holds: pages and tags are bounded; what follows a page is asked of the same host.

#![forbid(unsafe_code)]

use http::Method;
use http::header::{HeaderMap, LINK};
use reqwest::Url;
use serde::Deserialize;

use super::error::FetchError;
use super::host::Host;
use super::http::read_body;

/// Of one page, in bytes.
const MAX_PAGE: usize = 4 << 20;
const MAX_PAGES: usize = 256;
/// Of a repository, in all.
const MAX_TAGS: usize = 64 * 1024;

#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

/// All of them.
pub async fn all(host: &Host, repository: &str) -> Result<Vec<String>, FetchError> {
    let what = format!("the tags of {repository}");
    let mut url = host.url(&format!("{repository}/tags/list")).await?;
    let mut tags = Vec::new();
    for _ in 0..MAX_PAGES {
        let answer = host.send(Method::GET, &url, HeaderMap::new(), None, &host.authorizer).await?;
        if !answer.status().is_success() {
            return Err(host.refusal(&what, answer).await);
        }
        let next = answer.headers().get(LINK).and_then(|link| link.to_str().ok()).and_then(after);
        let next = next.and_then(|next| url.join(next).ok()).filter(|next| next.origin() == url.origin());
        let body = read_body(answer, MAX_PAGE, &what).await?;
        let page: Page = serde_json::from_slice(&body).map_err(|error| FetchError::Malformed {
            what: what.clone(),
            host: host.name.clone(),
            why: error.to_string(),
        })?;
        tags.extend(page.tags.unwrap_or_default());
        if tags.len() > MAX_TAGS {
            return Err(FetchError::TooLong { what, limit: MAX_TAGS as u64 });
        }
        match next {
            Some(next) => url = same_questions(next, &url),
            None => return Ok(tags),
        }
    }
    Err(FetchError::TooLong { what, limit: MAX_TAGS as u64 })
}

// A mirror is told with each request which registry it stands for.
fn same_questions(mut next: Url, before: &Url) -> Url {
    let stands_for = before.query_pairs().find(|(key, _)| key == "ns").map(|(_, value)| value.into_owned());
    if let Some(registry) = stands_for
        && !next.query_pairs().any(|(key, _)| key == "ns")
    {
        next.query_pairs_mut().append_pair("ns", &registry);
    }
    next
}

// `</v2/x/tags/list?last=b&n=2>; rel="next"`.
fn after(link: &str) -> Option<&str> {
    let (url, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    rest.contains("rel=\"next\"").then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        assert_eq!(after("</v2/x/tags/list?last=b&n=2>; rel=\"next\""), Some("/v2/x/tags/list?last=b&n=2"));
        assert_eq!(after("</x>; rel=\"prev\""), None);
        assert_eq!(after("/x; rel=\"next\""), None);
    }
}
