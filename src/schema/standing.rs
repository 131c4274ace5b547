//! What an operator asks of the registry, outside of running: how a subject stands, and to register
//! it.

use crate::config::RegistrySettings;

use super::{
    Subject,
    catalog::catalog,
    codec::SchemaFault,
    registry::{Registry, RegistryFault},
};

/// How a subject of the registry stands to the schema of this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is there, with this id.
    Registered(u32),
    /// The subject does not exist.
    New,
    /// The subject holds other versions, and the registry would take this one.
    Compatible,
    /// The registry would refuse it; its reasons.
    Incompatible(String),
}

/// Looks without writing.
///
/// # Errors
/// [`SchemaFault`] when the registry cannot be asked.
pub(crate) async fn standing(
    settings: &RegistrySettings,
    name: &str,
    subject: Subject,
) -> Result<Standing, SchemaFault> {
    let told = |fault: RegistryFault| SchemaFault(fault.to_string());
    let registry = Registry::new(settings).map_err(told)?;
    let text = catalog().of(subject).text;
    match registry.verify(name, text).await {
        Ok(id) => return Ok(Standing::Registered(id)),
        Err(RegistryFault::Missing(_)) => {}
        Err(fault) => return Err(told(fault)),
    }
    match registry.compatible(name, text).await {
        Ok(reasons) if reasons.is_empty() => Ok(Standing::Compatible),
        Ok(reasons) => Ok(Standing::Incompatible(reasons.join("; "))),
        Err(RegistryFault::Missing(_)) => Ok(Standing::New),
        Err(fault) => Err(told(fault)),
    }
}

/// Registers the schema of this version, or finds it there; its id.
///
/// # Errors
/// [`SchemaFault`] with the registry's own reason.
pub(crate) async fn register(
    settings: &RegistrySettings,
    name: &str,
    subject: Subject,
) -> Result<u32, SchemaFault> {
    let told = |fault: RegistryFault| SchemaFault(fault.to_string());
    Registry::new(settings)
        .map_err(told)?
        .register(name, catalog().of(subject).text)
        .await
        .map_err(told)
}
