//! Why something about networks is refused, in the words that docker's users and their scripts know.

/// A refusal.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("network {0} not found")]
    NotFound(String),
    #[error("network with name {0} already exists")]
    NameInUse(String),
    #[error("multiple networks found with prefix: {0}")]
    Ambiguous(String),
    #[error("operation is not permitted on predefined {0} network")]
    Predefined(String),
    #[error("{0} is a pre-defined network and cannot be removed")]
    PredefinedStays(String),
    #[error("error while removing network: network {name} id {id} has active endpoints")]
    Active { name: String, id: String },
    #[error("Pool overlaps with other one on this address space")]
    Overlap,
    #[error(
        "could not find an available, non-overlapping {family} address pool among the defaults to assign to the network"
    )]
    NoPool { family: &'static str },
    #[error("no matching subnet for {what} {address}")]
    NoSubnet { what: &'static str, address: String },
    #[error("no available {family} addresses on this network's address pools: {name} ({id})")]
    Full { family: &'static str, name: String, id: String },
    #[error("Address already in use")]
    AddressInUse,
    #[error("user specified IP address is supported on user defined networks only")]
    FixedAddressOnPredefined,
    #[error(
        "user specified IP address is supported only when connecting to networks with user configured subnets"
    )]
    FixedAddressOnChosen,
    #[error("Requested address {0} is not within any of the network's subnets")]
    AddressOutside(String),
    #[error("network-scoped alias is supported only for containers in user defined networks")]
    AliasOnPredefined,
    #[error("endpoint with name {container} already exists in network {network}")]
    Connected { container: String, network: String },
    #[error("container {container} is not connected to network {network}")]
    NotConnected { container: String, network: String },
    #[error(
        "container sharing network namespace with another container or host cannot be connected to any other network"
    )]
    Shares,
    #[error("container cannot be disconnected from host network or connected to host network")]
    HostStays,
    #[error(
        "container cannot be connected to multiple networks with one of the networks in private (none) mode"
    )]
    NoneIsAlone,
    #[error("cannot join network of a non running container: {0}")]
    TargetStopped(String),
    #[error("{0}")]
    Conflicting(&'static str),
    #[error("plugin \"{0}\" not found")]
    NoDriver(String),
    #[error("bridge driver doesn't support multiple subnets")]
    ManySubnets,
    #[error("Cannot link to {0}, as it does not belong to the default network")]
    LinkElsewhere(String),
    #[error("Cannot link to a non running container: {0}")]
    LinkStopped(String),
}

impl Refusal {
    pub fn code(&self) -> tonic::Code {
        use tonic::Code;
        match self {
            Refusal::NotFound(_) | Refusal::NoDriver(_) => Code::NotFound,
            Refusal::NameInUse(_) | Refusal::Connected { .. } => Code::AlreadyExists,
            Refusal::Ambiguous(_)
            | Refusal::NoSubnet { .. }
            | Refusal::AddressOutside(_)
            | Refusal::Conflicting(_)
            | Refusal::ManySubnets
            | Refusal::FixedAddressOnPredefined
            | Refusal::FixedAddressOnChosen
            | Refusal::AliasOnPredefined => Code::InvalidArgument,
            Refusal::NoPool { .. } | Refusal::Full { .. } => Code::ResourceExhausted,
            Refusal::Predefined(_)
            | Refusal::PredefinedStays(_)
            | Refusal::Active { .. }
            | Refusal::Overlap
            | Refusal::AddressInUse
            | Refusal::NotConnected { .. }
            | Refusal::Shares
            | Refusal::HostStays
            | Refusal::NoneIsAlone
            | Refusal::TargetStopped(_)
            | Refusal::LinkElsewhere(_)
            | Refusal::LinkStopped(_) => Code::FailedPrecondition,
        }
    }
}
