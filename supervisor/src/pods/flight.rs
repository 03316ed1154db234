//! Names of pods and containers, each held by what it stands for or by the making of it. Who asks for what is being made
//! already waits for the same making, and learns at which step it is when that takes too long.
//!
//! What always holds: a name is free again when the making has failed and nothing of it is left.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::error::{Error, Result};

/// How long a caller waits; the work goes on.
const PATIENCE: Duration = Duration::from_secs(100);

/// What was asked for, to tell it from anything else.
pub fn as_text(kind: &'static str, name: &str, asked: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(asked).map_err(|source| Error::Record {
        table: kind,
        key: name.to_owned(),
        source: source.into(),
    })
}

/// Something in the making.
pub struct Flight {
    what: String,
    /// What was asked for, as text.
    asked: String,
    step: Mutex<Cow<'static, str>>,
    done: watch::Sender<Option<Outcome>>,
}

/// The id of what was made.
type Outcome = Result<String, Arc<Error>>;

impl Flight {
    /// Says what is done now.
    pub fn at(&self, step: impl Into<Cow<'static, str>>) {
        let step = step.into();
        tracing::debug!(step = &*step, "making {}", self.what);
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    fn step(&self) -> Cow<'static, str> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is made, and how far that is.
    pub fn progress(&self) -> String {
        format!("{} is being made, at the step: {}", self.what, self.step())
    }

    /// As [`Flight::landed`], for whoever asks for the same.
    pub async fn join(&self, asked: &str) -> Result<String> {
        if self.asked == asked {
            return self.landed().await;
        }
        let name = format!("{}, which is being made with another configuration", self.what);
        Err(Error::already_exists("pod or container", name))
    }

    /// Waits until it is made.
    pub async fn landed(&self) -> Result<String> {
        let mut done = self.done.subscribe();
        let waited = tokio::time::timeout(PATIENCE, done.wait_for(Option::is_some)).await;
        match waited {
            Ok(Ok(outcome)) => match &*outcome {
                Some(Ok(id)) => Ok(id.clone()),
                Some(Err(error)) => Err(Error::Shared(error.clone())),
                None => Err(Error::Lost { what: "the making of a pod or container" }),
            },
            Ok(Err(_)) => Err(Error::Lost { what: "the making of a pod or container" }),
            Err(_) => {
                let why = format!("it is still being made, at the step: {}; ask again", self.step());
                Err(Error::unavailable(self.what.clone(), why))
            }
        }
    }
}

enum Holder {
    Flight(Arc<Flight>),
    /// Its id.
    Made(String),
}

/// What a name was found to be.
pub enum Claim {
    /// Free until now.
    Mine(Reservation),
    /// Somebody else makes it.
    Join(Arc<Flight>),
    /// The id of what has it.
    Made(String),
}

/// The names of one kind.
#[derive(Clone, Default)]
pub struct Names(Arc<Mutex<HashMap<String, Holder>>>);

impl Names {
    fn table(&self) -> MutexGuard<'_, HashMap<String, Holder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name, or says who has it. `what` is said in errors; `asked` tells what was asked for from anything else.
    pub fn claim(&self, name: &str, what: String, asked: String) -> Claim {
        let mut table = self.table();
        match table.get(name) {
            Some(Holder::Flight(flight)) => Claim::Join(flight.clone()),
            Some(Holder::Made(id)) => Claim::Made(id.clone()),
            None => {
                let step = Mutex::new("beginning".into());
                let flight = Arc::new(Flight { what, asked, step, done: watch::Sender::new(None) });
                table.insert(name.to_owned(), Holder::Flight(flight.clone()));
                Claim::Mine(Reservation { names: self.clone(), name: name.to_owned(), flight, over: false })
            }
        }
    }

    /// What was found at the start of the daemon.
    pub fn insert(&self, name: &str, id: &str) {
        self.table().insert(name.to_owned(), Holder::Made(id.to_owned()));
    }

    /// Frees a name if this has it.
    pub fn free(&self, name: &str, id: &str) {
        let mut table = self.table();
        if matches!(table.get(name), Some(Holder::Made(holder)) if holder == id) {
            table.remove(name);
        }
    }
}

/// A name for something in the making; free again when dropped.
pub struct Reservation {
    names: Names,
    name: String,
    flight: Arc<Flight>,
    over: bool,
}

impl Reservation {
    pub fn flight(&self) -> Arc<Flight> {
        self.flight.clone()
    }

    /// Tells all who wait.
    pub fn settle(mut self, outcome: Result<String>) {
        self.over = true;
        match &outcome {
            Ok(id) => self.names.insert(&self.name, id),
            Err(_) => drop(self.names.table().remove(&self.name)),
        }
        self.flight.done.send_replace(Some(outcome.map_err(Arc::new)));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.over {
            self.names.table().remove(&self.name);
            let lost = Error::Lost { what: "the making of a pod or container" };
            self.flight.done.send_replace(Some(Err(Arc::new(lost))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_again_gets_what_was_made_and_a_failed_name_is_free() {
        let names = Names::default();
        let Claim::Mine(first) = names.claim("a", "pod a".into(), "1".into()) else { panic!("it was free") };
        let Claim::Join(flight) = names.claim("a", "pod a".into(), "2".into()) else {
            panic!("it is being made")
        };
        assert!(
            flight.join("2").await.unwrap_err().is_already_exists(),
            "it would get what somebody else asked for"
        );
        let waiting = tokio::spawn(async move { flight.join("1").await });
        first.settle(Ok("1".into()));
        assert_eq!(waiting.await.unwrap().unwrap(), "1");
        assert!(matches!(names.claim("a", String::new(), String::new()), Claim::Made(id) if id == "1"));
        names.free("a", "2");
        assert!(matches!(names.claim("a", String::new(), String::new()), Claim::Made(_)));
        names.free("a", "1");
        let Claim::Mine(second) = names.claim("a", "pod a".into(), String::new()) else {
            panic!("it was freed")
        };
        let flight = second.flight();
        second.settle(Err(Error::not_found("x", "y")));
        assert!(flight.landed().await.unwrap_err().is_not_found());
        let Claim::Mine(third) = names.claim("a", "pod a".into(), String::new()) else { panic!("it failed") };
        let flight = third.flight();
        drop(third);
        assert!(flight.landed().await.is_err());
    }
}
