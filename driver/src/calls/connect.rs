//! Opening a connection, and what it is to.

use std::sync::atomic::Ordering;

use virtft_domain::{CPU_MODEL, MAX_VCPUS, capabilities, domain_capabilities};
use virtft_rpc::remote::{
    auth_list, connect_close, connect_domain_xml_to_native, connect_get_capabilities, connect_get_cpu_model_names,
    connect_get_domain_capabilities, connect_get_hostname, connect_get_lib_version, connect_get_max_vcpus,
    connect_get_type, connect_get_uri, connect_get_version, connect_is_secure, connect_open,
    connect_register_close_callback, connect_set_identity, connect_supports_feature, connect_unregister_close_callback,
};

use super::{Context, flag, group};
use crate::error::DriverError;
use crate::host;
use crate::vm::command;
use crate::vm::definition::complete;

group! {
    auth_list => auth_list,
    connect_open => open,
    connect_close => close,
    connect_get_type => get_type,
    connect_get_version => get_version,
    connect_get_lib_version => get_lib_version,
    connect_get_max_vcpus => get_max_vcpus,
    connect_get_capabilities => get_capabilities,
    connect_get_domain_capabilities => get_domain_capabilities,
    connect_get_hostname => get_hostname,
    connect_get_uri => get_uri,
    connect_is_secure => is_secure,
    connect_get_cpu_model_names => get_cpu_model_names,
    connect_domain_xml_to_native => domain_xml_to_native,
    connect_supports_feature => supports_feature,
    connect_register_close_callback => register_close_callback,
    connect_unregister_close_callback => unregister_close_callback,
    connect_set_identity => set_identity,
}

/// The client may only look; all other bits are of clients' own use.
const OPEN_READ_ONLY: u32 = 1;

/// Features, in libvirt's numbers.
const KEEPALIVE: i32 = 10;
/// Drivers move a domain among themselves, and take the request with parameters: a planned switch to the backup.
const MIGRATION_P2P: i32 = 4;
const MIGRATION_PARAMS: i32 = 13;
/// Integers and strings as parameters, events with callback numbers, close callbacks, arguments of network updates in the
/// order of the header. File descriptors (8) are not among them: nothing that could be passed is there yet.
const FEATURES: [i32; 7] = [MIGRATION_P2P, KEEPALIVE, 9, MIGRATION_PARAMS, 14, 15, 16];

/// The version of libvirt whose protocol this is.
const LIB_VERSION: u64 = 9_000_000;

/// Who reaches the socket may use it; the file's permissions decide that. (libvirt's numbers: 0 none, 1 SASL, 2 polkit.)
fn auth_list(_: &Context<'_>, _: auth_list::Args) -> Result<auth_list::Reply, DriverError> {
    Ok(auth_list::Reply { types: vec![0] })
}

fn open(context: &Context<'_>, args: connect_open::Args) -> Result<connect_open::Reply, DriverError> {
    let default = context.hypervisor().paths.default_uri();
    let uri = args.name.filter(|name| !name.is_empty()).unwrap_or_else(|| default.to_owned());
    if !is_ours(&uri) {
        return Err(DriverError::NoConnect(uri));
    }
    context.session.open(uri, args.flags & OPEN_READ_ONLY != 0)?;
    Ok(connect_open::Reply {})
}

/// `ft:///system` and `/session`; under the name `qemu` too, for tools that insist on it. Parameters behind `?` are the
/// client library's.
fn is_ours(uri: &str) -> bool {
    let path = uri.split('?').next().unwrap_or_default();
    ["ft", "qemu"].iter().any(|scheme| {
        let rest = path.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        matches!(rest, Some("/system" | "/session"))
    })
}

fn close(_: &Context<'_>, _: connect_close::Args) -> Result<connect_close::Reply, DriverError> {
    // The client ends the connection itself.
    Ok(connect_close::Reply {})
}

fn get_type(context: &Context<'_>, _: connect_get_type::Args) -> Result<connect_get_type::Reply, DriverError> {
    let uri = context.session.opened().map(|opened| opened.uri).unwrap_or_default();
    let kind = if uri.starts_with("qemu") { "QEMU" } else { "FT" };
    Ok(connect_get_type::Reply { kind: kind.into() })
}

fn get_version(_: &Context<'_>, _: connect_get_version::Args) -> Result<connect_get_version::Reply, DriverError> {
    let mut parts = env!("CARGO_PKG_VERSION").split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let (major, minor, micro) = (next(), next(), next());
    Ok(connect_get_version::Reply { hv_ver: major * 1_000_000 + minor * 1000 + micro })
}

fn get_lib_version(
    _: &Context<'_>,
    _: connect_get_lib_version::Args,
) -> Result<connect_get_lib_version::Reply, DriverError> {
    Ok(connect_get_lib_version::Reply { lib_ver: LIB_VERSION })
}

fn get_max_vcpus(
    _: &Context<'_>,
    args: connect_get_max_vcpus::Args,
) -> Result<connect_get_max_vcpus::Reply, DriverError> {
    match args.kind.as_deref() {
        None | Some("qemu") => Ok(connect_get_max_vcpus::Reply { max_vcpus: i32::try_from(MAX_VCPUS).unwrap_or(1) }),
        Some(other) => Err(DriverError::InvalidArgument(format!("there are no domains of the type '{other}'"))),
    }
}

fn get_capabilities(
    context: &Context<'_>,
    _: connect_get_capabilities::Args,
) -> Result<connect_get_capabilities::Reply, DriverError> {
    let emulator = context.hypervisor().paths.emulator.display().to_string();
    Ok(connect_get_capabilities::Reply { capabilities: capabilities(&host::facts(), &emulator) })
}

fn get_domain_capabilities(
    context: &Context<'_>,
    args: connect_get_domain_capabilities::Args,
) -> Result<connect_get_domain_capabilities::Reply, DriverError> {
    let default = context.hypervisor().paths.emulator.display().to_string();
    let emulator = args.emulatorbin.unwrap_or(default);
    let text = domain_capabilities(&emulator, args.arch.as_deref(), args.machine.as_deref(), args.virttype.as_deref());
    let capabilities = text.map_err(DriverError::InvalidArgument)?;
    Ok(connect_get_domain_capabilities::Reply { capabilities })
}

fn get_hostname(_: &Context<'_>, _: connect_get_hostname::Args) -> Result<connect_get_hostname::Reply, DriverError> {
    Ok(connect_get_hostname::Reply { hostname: host::hostname() })
}

fn get_uri(context: &Context<'_>, _: connect_get_uri::Args) -> Result<connect_get_uri::Reply, DriverError> {
    Ok(connect_get_uri::Reply { uri: context.session.opened().map(|opened| opened.uri).unwrap_or_default() })
}

fn is_secure(_: &Context<'_>, _: connect_is_secure::Args) -> Result<connect_is_secure::Reply, DriverError> {
    // A socket of the host's own.
    Ok(connect_is_secure::Reply { secure: 1 })
}

fn get_cpu_model_names(
    _: &Context<'_>,
    args: connect_get_cpu_model_names::Args,
) -> Result<connect_get_cpu_model_names::Reply, DriverError> {
    if args.arch != "x86_64" {
        return Err(DriverError::InvalidArgument(format!("there are no domains of the architecture '{}'", args.arch)));
    }
    let models = if args.need_results == 0 { Vec::new() } else { vec![CPU_MODEL.to_owned()] };
    Ok(connect_get_cpu_model_names::Reply { models, ret: 1 })
}

/// The format of a command line.
const NATIVE_FORMAT: &str = "virtft-argv";

/// The command that a domain becomes, with the words quoted for a shell.
fn domain_xml_to_native(
    context: &Context<'_>,
    args: connect_domain_xml_to_native::Args,
) -> Result<connect_domain_xml_to_native::Reply, DriverError> {
    if args.native_format != NATIVE_FORMAT {
        return Err(DriverError::InvalidArgument(format!(
            "the format '{}'; write {NATIVE_FORMAT}",
            args.native_format
        )));
    }
    let domain = complete(&args.domain_xml)?;
    let program = command::program(&domain, &context.hypervisor().paths.emulator);
    let control = context.hypervisor().paths.control(domain.known_uuid());
    let words = std::iter::once(program).chain(command::arguments(
        &domain,
        &[],
        &control,
        &command::Role::Run { ft: None, state: None, paused: false },
    ));
    let quoted: Vec<String> = words.map(|word| quoted(&word.to_string_lossy())).collect();
    Ok(connect_domain_xml_to_native::Reply { native_config: quoted.join(" ") + "\n" })
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/=:,._+-".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn supports_feature(
    context: &Context<'_>,
    args: connect_supports_feature::Args,
) -> Result<connect_supports_feature::Reply, DriverError> {
    if args.feature == KEEPALIVE {
        // Only clients that answer pings ask.
        context.session.answers_pings.store(true, Ordering::Relaxed);
    }
    Ok(connect_supports_feature::Reply { supported: flag(FEATURES.contains(&args.feature)) })
}

/// The client's library tells of a broken connection by itself; there is nothing to add yet.
fn register_close_callback(
    _: &Context<'_>,
    _: connect_register_close_callback::Args,
) -> Result<connect_register_close_callback::Reply, DriverError> {
    Ok(connect_register_close_callback::Reply {})
}

fn unregister_close_callback(
    _: &Context<'_>,
    _: connect_unregister_close_callback::Args,
) -> Result<connect_unregister_close_callback::Reply, DriverError> {
    Ok(connect_unregister_close_callback::Reply {})
}

/// What a proxy says of its client. Who is connected was decided by the socket, so nothing follows from it.
fn set_identity(_: &Context<'_>, _: connect_set_identity::Args) -> Result<connect_set_identity::Reply, DriverError> {
    Ok(connect_set_identity::Reply {})
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn names_of_this_hypervisor() {
        for uri in ["ft:///system", "ft:///session", "qemu:///system", "ft:///system?foo=1"] {
            assert!(is_ours(uri), "{uri}");
        }
        for uri in ["", "ft:///", "ft:///x", "test:///default", "qemu://host/system", "ftx:///system", "ft:system"] {
            assert!(!is_ours(uri), "{uri}");
        }
    }
}
