//! The table of procedures and events of libvirt's main program.
//!
//! One row each: number, name, who may call it, what it takes, what it gives. `need` is 0 where only the count is wanted.
//! Lists whose length is asked for first (`nparams`, `maxnames`) answer 0 with the length. Memory is in KiB and CPU time in
//! nanoseconds everywhere. What `flags` and the numbers of states mean is in libvirt's public headers; those that matter
//! here are named where they are used, in the daemon.
//!
//! A number that is not here is unknown to this daemon, and answered so.

use uuid::Uuid;

use crate::procedure::{Access, Event, Procedure, ProcedureInfo, protocol};
pub use crate::types::{
    Address, DhcpLease, DiskError, DomainStatistics, InterfaceAddresses, IoThread, MemoryStatistic, NodeStatistic,
    Opaque, VcpuInfo,
};
use crate::types::{CharList, DomainRef, FixedChars, NetworkRef, TypedParameter};
use crate::xdr::{Decoder, Encoder, Xdr, XdrError};

protocol! {
    procedures {
        // Connection and host.
        1 connect_open Read (name: Option<String>, flags: u32) -> ();
        2 connect_close Read () -> ();
        3 connect_get_type Read () -> (kind: String);
        4 connect_get_version Read () -> (hv_ver: u64);
        5 connect_get_max_vcpus Read (kind: Option<String>) -> (max_vcpus: i32);
        6 node_get_info Read () -> (model: FixedChars<32>, memory: u64, cpus: i32, mhz: i32, nodes: i32, sockets: i32,
            cores: i32, threads: i32);
        7 connect_get_capabilities Read () -> (capabilities: String);

        // Devices, life cycle, lists in the old style.
        8 domain_attach_device Write (dom: DomainRef, xml: String) -> ();
        9 domain_create Write (dom: DomainRef) -> ();
        10 domain_create_xml Write (xml_desc: String, flags: u32) -> (dom: DomainRef);
        11 domain_define_xml Write (xml: String) -> (dom: DomainRef);
        12 domain_destroy Write (dom: DomainRef) -> ();
        13 domain_detach_device Write (dom: DomainRef, xml: String) -> ();
        14 domain_get_xml_desc Read (dom: DomainRef, flags: u32) -> (xml: String);
        15 domain_get_autostart Read (dom: DomainRef) -> (autostart: i32);
        16 domain_get_info Read (dom: DomainRef) -> (state: u32, max_mem: u64, memory: u64, nr_virt_cpu: u32, cpu_time: u64);
        17 domain_get_max_memory Read (dom: DomainRef) -> (memory: u64);
        18 domain_get_max_vcpus Read (dom: DomainRef) -> (num: i32);
        19 domain_get_os_type Read (dom: DomainRef) -> (kind: String);
        20 domain_get_vcpus Read (dom: DomainRef, maxinfo: i32, maplen: i32) -> (info: Vec<VcpuInfo>, cpumaps: Opaque);
        21 connect_list_defined_domains Read (maxnames: i32) -> (names: Vec<String>);
        22 domain_lookup_by_id Read (id: i32) -> (dom: DomainRef);
        23 domain_lookup_by_name Read (name: String) -> (dom: DomainRef);
        24 domain_lookup_by_uuid Read (uuid: Uuid) -> (dom: DomainRef);
        25 connect_num_of_defined_domains Read () -> (num: i32);
        27 domain_reboot Write (dom: DomainRef, flags: u32) -> ();
        28 domain_resume Write (dom: DomainRef) -> ();
        29 domain_set_autostart Write (dom: DomainRef, autostart: i32) -> ();
        30 domain_set_max_memory Write (dom: DomainRef, memory: u64) -> ();
        31 domain_set_memory Write (dom: DomainRef, memory: u64) -> ();
        32 domain_set_vcpus Write (dom: DomainRef, nvcpus: u32) -> ();
        33 domain_shutdown Write (dom: DomainRef) -> ();
        34 domain_suspend Write (dom: DomainRef) -> ();
        35 domain_undefine Write (dom: DomainRef) -> ();
        37 connect_list_domains Read (maxids: i32) -> (ids: Vec<i32>);
        45 network_get_bridge_name Read (net: NetworkRef) -> (name: String);
        46 network_lookup_by_name Read (name: String) -> (net: NetworkRef);
        51 connect_num_of_domains Read () -> (num: i32);
        53 domain_core_dump Write (dom: DomainRef, to: String, flags: u32) -> ();
        54 domain_restore Write (from: String) -> ();
        55 domain_save Write (dom: DomainRef, to: String) -> ();
        59 connect_get_hostname Read () -> (hostname: String);
        60 connect_supports_feature Anyone (feature: i32) -> (supported: i32);
        64 domain_block_stats Read (dom: DomainRef, path: String)
            -> (rd_req: i64, rd_bytes: i64, wr_req: i64, wr_bytes: i64, errs: i64);
        65 domain_interface_stats Read (dom: DomainRef, device: String) -> (rx_bytes: i64, rx_packets: i64, rx_errs: i64,
            rx_drop: i64, tx_bytes: i64, tx_packets: i64, tx_errs: i64, tx_drop: i64);
        66 auth_list Anyone () -> (types: Vec<i32>);
        67 auth_sasl_init Anyone () -> (mechlist: String);
        68 auth_sasl_start Anyone (mech: String, nil: i32, data: CharList) -> (complete: i32, nil: i32, data: CharList);
        69 auth_sasl_step Anyone (nil: i32, data: CharList) -> (complete: i32, nil: i32, data: CharList);
        70 auth_polkit Anyone () -> (complete: i32);

        102 node_get_free_memory Read () -> (free_mem: u64);
        110 connect_get_uri Read () -> (uri: String);
        121 domain_get_security_label Read (dom: DomainRef) -> (label: CharList, enforcing: i32);
        122 node_get_security_model Read () -> (model: CharList, doi: CharList);
        136 connect_domain_xml_to_native Write (native_format: String, domain_xml: String, flags: u32) -> (native_config: String);
        149 connect_is_secure Read () -> (secure: i32);
        150 domain_is_active Read (dom: DomainRef) -> (active: i32);
        151 domain_is_persistent Read (dom: DomainRef) -> (persistent: i32);
        157 connect_get_lib_version Read () -> (lib_ver: u64);
        159 domain_memory_stats Read (dom: DomainRef, max_stats: u32, flags: u32) -> (stats: Vec<MemoryStatistic>);
        160 domain_attach_device_flags Write (dom: DomainRef, xml: String, flags: u32) -> ();
        161 domain_detach_device_flags Write (dom: DomainRef, xml: String, flags: u32) -> ();
        163 domain_get_job_info Read (dom: DomainRef) -> (kind: i32, time_elapsed: u64, time_remaining: u64, data_total: u64,
            data_processed: u64, data_remaining: u64, mem_total: u64, mem_processed: u64, mem_remaining: u64, file_total: u64,
            file_processed: u64, file_remaining: u64);
        164 domain_abort_job Write (dom: DomainRef) -> ();
        174 domain_update_device_flags Write (dom: DomainRef, xml: String, flags: u32) -> ();
        182 domain_managed_save Write (dom: DomainRef, flags: u32) -> ();
        183 domain_has_managed_save_image Read (dom: DomainRef, flags: u32) -> (result: i32);
        184 domain_managed_save_remove Write (dom: DomainRef, flags: u32) -> ();
        187 domain_snapshot_num Read (dom: DomainRef, flags: u32) -> (num: i32);
        194 domain_get_block_info Read (dom: DomainRef, path: String, flags: u32)
            -> (allocation: u64, capacity: u64, physical: u64);
        196 domain_create_with_flags Write (dom: DomainRef, flags: u32) -> (dom: DomainRef);
        199 domain_set_vcpus_flags Write (dom: DomainRef, nvcpus: u32, flags: u32) -> ();
        200 domain_get_vcpus_flags Read (dom: DomainRef, flags: u32) -> (num: i32);
        201 domain_open_console Write (dom: DomainRef, dev_name: Option<String>, flags: u32) -> ();
        202 domain_is_updated Read (dom: DomainRef) -> (updated: i32);
        203 connect_get_sysinfo Read (flags: u32) -> (sysinfo: String);
        204 domain_set_memory_flags Write (dom: DomainRef, memory: u64, flags: u32) -> ();
        210 domain_inject_nmi Write (dom: DomainRef, flags: u32) -> ();
        212 domain_get_state Read (dom: DomainRef, flags: u32) -> (state: i32, reason: i32);
        227 node_get_cpu_stats Read (cpu_num: i32, nparams: i32, flags: u32) -> (params: Vec<NodeStatistic>, nparams: i32);
        228 node_get_memory_stats Read (nparams: i32, cell_num: i32, flags: u32)
            -> (params: Vec<NodeStatistic>, nparams: i32);
        229 domain_get_control_info Read (dom: DomainRef, flags: u32) -> (state: u32, details: u32, state_time: u64);
        230 domain_get_vcpu_pin_info Read (dom: DomainRef, ncpumaps: i32, maplen: i32, flags: u32)
            -> (cpumaps: Opaque, num: i32);
        231 domain_undefine_flags Write (dom: DomainRef, flags: u32) -> ();
        234 domain_destroy_flags Write (dom: DomainRef, flags: u32) -> ();
        235 domain_save_image_get_xml_desc Write (file: String, flags: u32) -> (xml: String);
        245 domain_reset Write (dom: DomainRef, flags: u32) -> ();
        258 domain_shutdown_flags Write (dom: DomainRef, flags: u32) -> ();
        262 domain_get_cpu_stats Read (dom: DomainRef, nparams: u32, start_cpu: i32, ncpus: u32, flags: u32)
            -> (params: Vec<TypedParameter>, nparams: i32);
        263 domain_get_disk_errors Read (dom: DomainRef, maxerrors: u32, flags: u32) -> (errors: Vec<DiskError>, nerrors: i32);
        264 domain_set_metadata Write (dom: DomainRef, kind: i32, metadata: Option<String>, key: Option<String>,
            uri: Option<String>, flags: u32) -> ();
        265 domain_get_metadata Read (dom: DomainRef, kind: i32, uri: Option<String>, flags: u32) -> (metadata: String);
        273 connect_list_all_domains Read (need_results: i32, flags: u32) -> (domains: Vec<DomainRef>, ret: u32);
        274 domain_list_all_snapshots Read (dom: DomainRef, need_results: i32, flags: u32)
            -> (snapshots: Vec<SnapshotRef>, ret: i32);
        280 domain_get_emulator_pin_info Read (dom: DomainRef, maplen: i32, flags: u32) -> (cpumaps: Opaque, ret: i32);
        293 node_get_cpu_map Read (need_map: i32, need_online: i32, flags: u32) -> (cpumap: Opaque, online: u32, ret: i32);
        298 domain_get_job_stats Read (dom: DomainRef, flags: u32) -> (kind: i32, params: Vec<TypedParameter>);
        305 domain_migrate_perform3_params Write (dom: DomainRef, dconnuri: Option<String>, params: Vec<TypedParameter>,
            cookie_in: Opaque, flags: u32) -> (cookie_out: Opaque);
        312 connect_get_cpu_model_names Read (arch: String, need_results: i32, flags: u32) -> (models: Vec<String>, ret: i32);
        316 connect_domain_event_callback_register_any Read (event_id: i32, dom: Option<DomainRef>) -> (callback_id: i32);
        317 connect_domain_event_callback_deregister_any Read (callback_id: i32) -> ();
        341 network_get_dhcp_leases Read (net: NetworkRef, mac: Option<String>, need_results: i32, flags: u32)
            -> (leases: Vec<DhcpLease>, ret: u32);
        342 connect_get_domain_capabilities Read (emulatorbin: Option<String>, arch: Option<String>, machine: Option<String>,
            virttype: Option<String>, flags: u32) -> (capabilities: String);
        344 connect_get_all_domain_stats Read (doms: Vec<DomainRef>, stats: u32, flags: u32)
            -> (ret_stats: Vec<DomainStatistics>);
        350 domain_define_xml_flags Write (xml: String, flags: u32) -> (dom: DomainRef);
        351 domain_get_iothread_info Read (dom: DomainRef, flags: u32) -> (info: Vec<IoThread>, ret: u32);
        353 domain_interface_addresses Read (dom: DomainRef, source: u32, flags: u32) -> (ifaces: Vec<InterfaceAddresses>);
        358 domain_rename Write (dom: DomainRef, new_name: Option<String>, flags: u32) -> (retcode: i32);
        360 connect_register_close_callback Read () -> ();
        361 connect_unregister_close_callback Read () -> ();
        388 domain_managed_save_get_xml_desc Write (dom: DomainRef, flags: u32) -> (xml: String);
        413 domain_list_all_checkpoints Read (dom: DomainRef, need_results: i32, flags: u32)
            -> (checkpoints: Vec<SnapshotRef>, ret: i32);
        419 connect_set_identity Write (params: Vec<TypedParameter>, flags: u32) -> ();
        426 domain_get_messages Read (dom: DomainRef, flags: u32) -> (msgs: Vec<String>);
    }

    events {
        318 domain_event_callback_lifecycle (callback_id: i32, dom: DomainRef, event: i32, detail: i32);
        319 domain_event_callback_reboot (callback_id: i32, dom: DomainRef);
        331 domain_event_callback_balloon_change (callback_id: i32, dom: DomainRef, actual: u64);
        362 connect_event_connection_closed (reason: i32);
        379 domain_event_callback_metadata_change (callback_id: i32, dom: DomainRef, kind: i32, nsuri: Option<String>);
    }
}

/// How calls name a snapshot or checkpoint of a domain.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotRef {
    /// Name.
    pub name: String,
    /// The domain.
    pub dom: DomainRef,
}

impl Xdr for SnapshotRef {
    fn encode(&self, out: &mut Encoder) {
        self.name.encode(out);
        self.dom.encode(out);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, XdrError> {
        Ok(Self { name: Xdr::decode(input)?, dom: Xdr::decode(input)? })
    }
}

/// The row of a procedure.
#[must_use]
pub fn find(number: i32) -> Option<&'static ProcedureInfo> {
    PROCEDURES.binary_search_by_key(&number, |row| row.number).ok().map(|index| &PROCEDURES[index])
}

/// What comes of bytes when they are decoded and encoded again; `None` where they cannot be decoded.
#[cfg(any(test, feature = "fuzzing"))]
#[derive(Debug)]
pub(crate) struct RoundTrip {
    pub args: Option<Vec<u8>>,
    pub reply: Option<Vec<u8>>,
}

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn again<T: Xdr>(bytes: &[u8]) -> Option<Vec<u8>> {
    crate::xdr::from_bytes::<T>(bytes).ok().map(|value| crate::xdr::to_bytes(&value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdr::{from_bytes, to_bytes};

    #[test]
    fn rows_are_in_order() {
        assert!(PROCEDURES.is_sorted_by_key(|row| row.number));
        assert!(PROCEDURES.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert_eq!(find(16).map(|row| row.name), Some("domain_get_info"));
        assert_eq!(find(26), None);
        assert_eq!(find(-1), None);
    }

    #[test]
    fn only_the_opening_is_for_anyone() {
        let early: Vec<i32> =
            PROCEDURES.iter().filter(|row| row.access == Access::Anyone).map(|row| row.number).collect();
        assert_eq!(early, [60, 66, 67, 68, 69, 70]);
    }

    #[test]
    fn opening_as_go_libvirt_sends_it() {
        let bytes = b"\x01\0\0\0\0\0\0\x0bft:///system\0\0\0\0\0";
        assert!(from_bytes::<connect_open::Args>(bytes).is_err(), "the length is one short");
        let bytes = b"\x01\0\0\0\0\0\0\x0cft:///system\0\0\0\x01";
        let args = from_bytes::<connect_open::Args>(bytes).unwrap();
        assert_eq!(args, connect_open::Args { name: Some("ft:///system".into()), flags: 1 });
    }

    #[test]
    fn domains_are_encoded_as_libvirt_does() {
        let dom = DomainRef { name: "vm".into(), uuid: Uuid::from_u128(1), id: -1 };
        let bytes = to_bytes(&domain_get_state::Args { dom, flags: 0 });
        assert_eq!(bytes, b"\0\0\0\x02vm\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\xff\xff\xff\xff\0\0\0\0");
    }
}
