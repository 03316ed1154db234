//! How often a request is tried again, and how long is waited between.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::error::FetchError;

/// Attempts beyond the first, without progress between them.
const RETRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Of one wait that a registry asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Of all waits that registries ask for, in one request's attempts.
pub const BUDGET: Duration = Duration::from_secs(120);

/// What is left of attempts and time.
pub struct Patience {
    retries: u32,
    pause: Duration,
    budget: Duration,
}

impl Patience {
    pub fn new() -> Patience {
        Patience { retries: RETRIES, pause: FIRST_PAUSE, budget: BUDGET }
    }

    /// For hosts that there is an alternative to.
    pub fn none() -> Patience {
        Patience { retries: 0, pause: FIRST_PAUSE, budget: Duration::ZERO }
    }

    /// Much arrived since the last error: attempts count anew.
    pub fn renew(&mut self) {
        (self.retries, self.pause) = (RETRIES, FIRST_PAUSE);
    }

    /// Waits until the request may be tried again; gives the error back if it should not be.
    pub async fn wait(&mut self, error: FetchError) -> Result<(), FetchError> {
        if let FetchError::RateLimited { wait, host, .. } = &error {
            let asked = Duration::from_secs((*wait).max(1));
            if asked > self.budget {
                return Err(error);
            }
            let wait = asked.min(LONGEST_WAIT);
            self.budget -= wait;
            tracing::info!("{host} limits requests: waiting {} s", wait.as_secs());
            tokio::time::sleep(wait).await;
            return Ok(());
        }
        if !error.passes() || self.retries == 0 {
            return Err(error);
        }
        self.retries -= 1;
        tracing::debug!("trying again in {:?}: {error}", self.pause);
        // Apart from each other: many clients failed at the same moment.
        let jitter = rand::random::<f64>() * 0.25 + 1.0;
        tokio::time::sleep(self.pause.mul_f64(jitter)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
