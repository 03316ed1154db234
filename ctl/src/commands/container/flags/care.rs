//! The flags about a container's life: restarts, health, its init, its logs, how it is stopped.

use longshore_proto::longshore::engine::v1::{ContainerConfig, HealthCheck, RestartCondition};

use crate::failure::Failure;
use crate::parse::pairs::LogOption;
use crate::parse::{duration, number, pairs, restart};

#[derive(clap::Args)]
#[group(skip)]
pub struct Flags {
    /// Command to run to check health
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    health_interval: Option<i64>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "NUMBER", value_parser = number::integer)]
    health_retries: Option<i64>,
    /// Time between running the check during the start period (ms|s|m|h)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    health_start_interval: Option<i64>,
    /// Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    health_start_period: Option<i64>,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long, value_name = "DURATION", value_parser = duration::nanoseconds)]
    health_timeout: Option<i64>,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = number::boolean)]
    init: Option<bool>,
    /// Logging driver for the container: `json-file`, `local` or `none`
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Log driver options: max-size (-1 for no rotation), max-file, and the driver's own; without them the daemon
    /// rotates as it is configured
    #[arg(long, value_name = "KEY=VALUE", value_parser = pairs::log_option)]
    log_opt: Vec<LogOption>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    no_healthcheck: bool,
    /// Restart policy to apply when a container exits: `no`, `always`, `unless-stopped` or `on-failure[:RETRIES]`
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Restart the container when its health check says unhealthy, too; needs a restart policy
    #[arg(long)]
    restart_on_unhealthy: bool,
    /// Automatically remove the container and its associated anonymous volumes when it exits
    #[arg(long)]
    pub rm: bool,
    /// Signal to stop the container
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container; -1 for ever
    #[arg(long, value_name = "SECONDS", value_parser = number::seconds)]
    stop_timeout: Option<i32>,
}

impl Flags {
    /// Writes down what was asked for.
    pub fn fill(self, config: &mut ContainerConfig) -> Result<(), Failure> {
        config.health = self.health()?;
        config.init = self.init;
        let driver = self.log_driver.unwrap_or_default();
        if driver == "none" && !self.log_opt.is_empty() {
            return Err(Failure::Refused("invalid logging opts for driver none".into()));
        }
        config.log = pairs::log_config(&driver, &self.log_opt);
        let mut policy = match restart::policy(self.restart.as_deref().unwrap_or_default()) {
            Ok(policy) => policy,
            // What docker's client finds wrong, and what its daemon does.
            Err(text) if text.starts_with("invalid restart policy format") => {
                return Err(Failure::Refused(text));
            }
            Err(text) => return Err(Failure::message(text)),
        };
        policy.on_unhealthy = self.restart_on_unhealthy;
        if policy.on_unhealthy && policy.condition() == RestartCondition::No {
            return Err(Failure::Refused(
                "--restart-on-unhealthy needs a restart policy: add --restart on-failure, always or unless-stopped"
                    .into(),
            ));
        }
        if self.rm && policy.condition() != RestartCondition::No {
            return Err(Failure::Refused(
                "conflicting options: cannot specify both --restart and --rm".into(),
            ));
        }
        config.restart = Some(policy);
        config.auto_remove = self.rm;
        config.stop_signal = self.stop_signal.unwrap_or_default();
        config.stop_timeout = self.stop_timeout;
        Ok(())
    }

    /// `None`: as the image says.
    fn health(&self) -> Result<Option<HealthCheck>, Failure> {
        let times = [
            ("interval", self.health_interval),
            ("timeout", self.health_timeout),
            ("retries", self.health_retries),
            ("start-period", self.health_start_period),
            ("start-interval", self.health_start_interval),
        ];
        let asked = self.health_cmd.is_some() || times.iter().any(|(_, value)| value.is_some_and(|v| v != 0));
        if self.no_healthcheck {
            return match asked {
                true => Err(Failure::Refused("--no-healthcheck conflicts with --health-* options".into())),
                false => Ok(Some(HealthCheck { test: vec!["NONE".into()], ..HealthCheck::default() })),
            };
        }
        if let Some((name, _)) = times.iter().find(|(_, value)| value.is_some_and(|v| v < 0)) {
            return Err(Failure::Refused(format!("--health-{name} cannot be negative")));
        }
        if !asked {
            return Ok(None);
        }
        let test = match self.health_cmd.as_deref() {
            None | Some("") => Vec::new(),
            Some(line) => vec!["CMD-SHELL".into(), line.to_string()],
        };
        Ok(Some(HealthCheck {
            test,
            interval: self.health_interval.unwrap_or(0),
            timeout: self.health_timeout.unwrap_or(0),
            start_period: self.health_start_period.unwrap_or(0),
            start_interval: self.health_start_interval.unwrap_or(0),
            retries: i32::try_from(self.health_retries.unwrap_or(0))
                .map_err(|_| Failure::Refused("--health-retries is too large a number".into()))?,
        }))
    }
}
