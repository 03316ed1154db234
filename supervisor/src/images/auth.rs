//! Credentials for registries: challenges, basic authentication and bearer tokens.
//!
//! What always holds: a secret is sent only to the registry it belongs to or to the token server which that registry names,
//! over https unless the host may be spoken to in plain; it is never shown. A token is fetched once, however many requests
//! wait for it; a helper is asked at most once, and only when the registry has asked for credentials.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::fetch::error::FetchError;
use super::fetch::http::{Http, read_body, shown};
use super::fetch::response;

/// Of a token server's answer, in bytes.
const MAX_TOKEN: usize = 256 * 1024;
const CLIENT_ID: &str = "longshore";

/// What a user has for a registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    Password {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token.
    Identity(String),
    /// The whole value of an `Authorization` header.
    Header(String),
}

/// Where credentials come from that are not known from the beginning.
#[tonic::async_trait]
pub trait Helper: Send + Sync {
    /// Those for this host, `None` if there are none.
    async fn credentials(&self, host: &str) -> Result<Option<Credentials>, FetchError>;
}

/// What a repository's requests are authorized with.
#[derive(Clone)]
pub enum Secret {
    Known(Option<Credentials>),
    Asked(Arc<dyn Helper>),
}

impl Credentials {
    /// `None` if all parts are empty.
    pub fn from_parts(username: &str, password: &str, identity_token: &str) -> Option<Credentials> {
        if !identity_token.is_empty() {
            return Some(Credentials::Identity(identity_token.to_owned()));
        }
        if username.is_empty() && password.is_empty() {
            return None;
        }
        Some(Credentials::Password { username: username.to_owned(), password: password.to_owned() })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Password { username, .. } => write!(f, "Password({username:?}, …)"),
            Credentials::Identity(_) => f.write_str("Identity(…)"),
            Credentials::Header(_) => f.write_str("Header(…)"),
        }
    }
}

/// The authorization for one repository of one registry.
pub struct Authorizer {
    http: Arc<Http>,
    host: String,
    repository: String,
    /// What tokens are asked for, whatever a challenge says: `repository:NAME:ACTIONS`.
    scopes: Vec<String>,
    aim: Aim,
    secret: Secret,
    current: Mutex<Current>,
}

/// What it is authorized for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    Repository,
    /// Whether the credentials are right at all; a token to be kept instead of them is asked for.
    Login,
}

#[derive(Default)]
struct Current {
    /// What a helper has said.
    told: Option<Option<Credentials>>,
    header: Option<HeaderValue>,
    /// Counts what was obtained, so that one refusal causes one refresh.
    generation: u64,
    /// What a token server gave to be kept.
    identity: Option<String>,
}

/// What a request was sent with.
pub struct Sent(u64);

impl Authorizer {
    pub fn new(
        http: Arc<Http>,
        host: &str,
        repository: &str,
        scopes: Vec<String>,
        secret: Secret,
    ) -> Authorizer {
        let (host, repository) = (host.to_owned(), repository.to_owned());
        Authorizer { http, host, repository, scopes, aim: Aim::Repository, secret, current: Mutex::default() }
    }

    /// One that finds out whether the credentials are right.
    pub fn for_login(&self) -> Authorizer {
        let mut login = self.widened(String::new());
        (login.aim, login.scopes) = (Aim::Login, Vec::new());
        login
    }

    /// The identity token that was given for a login.
    pub async fn identity(&self) -> Option<String> {
        self.current.lock().await.identity.clone()
    }

    /// One for the same repository that asks for more.
    pub fn widened(&self, scope: String) -> Authorizer {
        let mut scopes = self.scopes.clone();
        scopes.push(scope);
        Authorizer::new(self.http.clone(), &self.host, &self.repository, scopes, self.secret.clone())
    }

    async fn credentials(&self, current: &mut Current) -> Result<Option<Credentials>, FetchError> {
        match (&self.secret, &current.told) {
            (Secret::Known(credentials), _) => Ok(credentials.clone()),
            (Secret::Asked(_), Some(told)) => Ok(told.clone()),
            (Secret::Asked(helper), None) => {
                let told = helper.credentials(&self.host).await?;
                Ok(current.told.insert(told).clone())
            }
        }
    }

    /// Adds what is known so far to a request.
    pub async fn authorize(&self, headers: &mut HeaderMap) -> Sent {
        let current = self.current.lock().await;
        if let Some(header) = &current.header {
            headers.insert(AUTHORIZATION, header.clone());
        }
        Sent(current.generation)
    }

    /// Answers a 401: obtains what its challenge asks for, unless another request has done so meanwhile. `false`: there is nothing
    /// to try that was not tried.
    pub async fn refresh(&self, sent: &Sent, refused: &HeaderMap) -> Result<bool, FetchError> {
        let mut current = self.current.lock().await;
        if current.generation != sent.0 {
            return Ok(true);
        }
        let asked = challenge(refused);
        let credentials = match asked {
            Some(_) => self.credentials(&mut current).await?,
            None => None,
        };
        let header = match (asked, credentials) {
            (Some(_), Some(Credentials::Header(value))) => secret_header(&value),
            (Some(Challenge::Bearer { realm, service, scope }), credentials) => {
                let (header, identity) = self.token(&realm, service, scope, credentials).await?;
                current.identity = identity.or(current.identity.take());
                Some(header)
            }
            (Some(Challenge::Basic), credentials) => basic(credentials),
            (None, _) => {
                let challenge =
                    refused.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
                if challenge.is_empty() {
                    return Ok(false);
                }
                return Err(FetchError::Challenge {
                    host: self.host.clone(),
                    challenge: challenge.chars().take(200).collect(),
                });
            }
        };
        if header.is_none() || (current.generation > 0 && header == current.header) {
            return Ok(false);
        }
        current.header = header;
        current.generation += 1;
        Ok(true)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
        credentials: Option<Credentials>,
    ) -> Result<(HeaderValue, Option<String>), FetchError> {
        let mut url = Url::parse(realm).map_err(|_| FetchError::Challenge {
            host: self.host.clone(),
            challenge: realm.chars().take(200).collect(),
        })?;
        self.http.check(&url)?;
        let scopes = self.wanted(scope.as_deref());
        let mut form: Vec<(&str, &str)> = Vec::new();
        if let Some(service) = &service {
            form.push(("service", service));
        }
        form.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
        if self.aim == Aim::Login && !matches!(credentials, Some(Credentials::Identity(_))) {
            form.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
        }
        let answer = match &credentials {
            Some(Credentials::Identity(token)) => {
                form.extend([
                    ("grant_type", "refresh_token"),
                    ("refresh_token", token),
                    ("client_id", CLIENT_ID),
                ]);
                let mut encoder = url.clone();
                encoder.set_query(None);
                encoder.query_pairs_mut().extend_pairs(form);
                self.http.post_form(&url, encoder.query().unwrap_or_default().to_owned()).await?
            }
            other => {
                let mut headers = HeaderMap::new();
                if let Some(Credentials::Password { username, password }) = other
                    && let Some(header) = basic_header(username, password)
                {
                    headers.insert(AUTHORIZATION, header);
                    form.push(("account", username));
                }
                url.query_pairs_mut().extend_pairs(form);
                self.http.get(Method::GET, &url, headers).await?
            }
        };
        self.read_token(&url, answer).await
    }

    // What is needed, and what the challenge says beyond that.
    fn wanted(&self, challenge: Option<&str>) -> Vec<String> {
        let mut wanted = self.scopes.clone();
        for scope in challenge.unwrap_or_default().split(' ').filter(|scope| !scope.is_empty()) {
            let covered = wanted.iter().any(|known| covers(known, scope));
            if !covered {
                wanted.push(scope.to_owned());
            }
        }
        if wanted.is_empty() && self.aim == Aim::Repository {
            wanted.push(format!("repository:{}:pull", self.repository));
        }
        wanted
    }

    async fn read_token(
        &self,
        url: &Url,
        answer: reqwest::Response,
    ) -> Result<(HeaderValue, Option<String>), FetchError> {
        let status = answer.status();
        let body = read_body(answer, MAX_TOKEN, "the token server's answer").await?;
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            let detail = format!("the token server {} says: {}", shown(url), response::detail(&body));
            return Err(FetchError::Unauthorized {
                what: self.repository.clone(),
                host: self.host.clone(),
                detail,
            });
        }
        let refuse = |detail| FetchError::TokenServer { url: shown(url), status: status.as_u16(), detail };
        if !status.is_success() {
            return Err(refuse(format!("{}: {}", status, response::detail(&body))));
        }
        let token: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| refuse("its answer is not a token".to_owned()))?;
        let bearer = [token.token, token.access_token].into_iter().flatten().find(|token| !token.is_empty());
        let bearer = bearer.ok_or_else(|| refuse("its answer has no token".to_owned()))?;
        let mut header = HeaderValue::from_str(&format!("Bearer {bearer}"))
            .map_err(|_| refuse("its token is malformed".to_owned()))?;
        header.set_sensitive(true);
        Ok((header, token.refresh_token.filter(|token| !token.is_empty())))
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    refresh_token: Option<String>,
    token: Option<String>,
    access_token: Option<String>,
}

// `repository:a:pull,push` covers `repository:a:pull`.
fn covers(known: &str, scope: &str) -> bool {
    let (Some((resource, has)), Some((wanted, needs))) = (known.rsplit_once(':'), scope.rsplit_once(':'))
    else {
        return known == scope;
    };
    resource == wanted && needs.split(',').all(|action| has.split(',').any(|had| had == action))
}

fn basic(credentials: Option<Credentials>) -> Option<HeaderValue> {
    match credentials {
        Some(Credentials::Password { username, password }) => basic_header(&username, &password),
        _ => None,
    }
}

fn secret_header(value: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(value).ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn basic_header(username: &str, password: &str) -> Option<HeaderValue> {
    let mut header =
        HeaderValue::from_str(&format!("Basic {}", base64(format!("{username}:{password}").as_bytes())))
            .ok()?;
    header.set_sensitive(true);
    Some(header)
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for index in 0..4 {
            if index > group.len() {
                text.push('=');
            } else {
                text.push(char::from(ALPHABET[(bits >> (18 - 6 * index) & 63) as usize]));
            }
        }
    }
    text
}

#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

// Bearer is preferred where both are offered, as it carries the password less often.
fn challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        for (scheme, parameters) in challenges(text) {
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            } else if scheme.eq_ignore_ascii_case("bearer") {
                let get = |key: &str| {
                    parameters.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.clone())
                };
                if let Some(realm) = get("realm") {
                    return Some(Challenge::Bearer { realm, service: get("service"), scope: get("scope") });
                }
            }
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

// `Scheme key="value", key=value, Other key=value`.
fn challenges(text: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = parameter(value);
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_owned(), value));
            }
            rest = after.trim_start_matches([' ', ',']);
        } else {
            found.push((word.to_owned(), Vec::new()));
            rest = after.trim_start_matches([' ', ',']);
        }
        if word.is_empty() && !rest.is_empty() {
            break; // Malformed: make no guess.
        }
    }
    found
}

fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (index, character) in quoted.char_indices() {
        match character {
            _ if escaped => {
                value.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[index + 1..]),
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &'static str) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(text));
        challenge(&headers)
    }

    #[test]
    fn challenges_are_read() {
        assert_eq!(of("Basic realm=\"x\""), Some(Challenge::Basic));
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry, the \"best\"".to_owned()),
            scope: Some("repository:a/b:pull".to_owned()),
        };
        let text = r#"Basic realm="r", Bearer realm="https://auth.example/token",service="registry, the \"best\"",scope="repository:a/b:pull""#;
        assert_eq!(of(text), Some(bearer));
        assert_eq!(of("Negotiate"), None);
        assert_eq!(of("===,,,"), None);
        assert_eq!(
            of("Bearer realm=\"unterminated"),
            Some(Challenge::Bearer { realm: "unterminated".to_owned(), service: None, scope: None })
        );
    }

    #[test]
    fn base64_is_padded() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("me:secret", "bWU6c2VjcmV0")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn a_push_asks_for_what_it_needs_even_if_the_challenge_does_not() {
        let http = Http::new(Vec::new(), Vec::new());
        let authorizer = |scopes: &[&str]| {
            let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            Authorizer::new(http.clone(), "h", "a", scopes, Secret::Known(None))
        };
        assert_eq!(authorizer(&[]).wanted(None), ["repository:a:pull"]);
        assert_eq!(authorizer(&[]).wanted(Some("x y")), ["x", "y"]);
        let push = authorizer(&["repository:a:pull,push"]);
        assert_eq!(push.wanted(Some("repository:a:pull")), ["repository:a:pull,push"]);
        let mount = push.widened("repository:b:pull".to_owned());
        assert_eq!(
            mount.wanted(Some("repository:a:delete")),
            ["repository:a:pull,push", "repository:b:pull", "repository:a:delete"]
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Credentials::from_parts("me", "secret", "").unwrap();
        assert!(!format!("{secret:?}").contains("secret"));
        assert_eq!(Credentials::from_parts("", "", ""), None);
    }
}
