//! Names of the maps and programs in the object, and the slots of the program arrays.

/// Hash: [`Address`](crate::key::Address) → [`Entry`](crate::rule::Entry).
pub const TARGETS: &str = "TARGETS";
/// LPM trie: [`NetworkKey`](crate::key::NetworkKey) → [`Entry`](crate::rule::Entry); read only while
/// [`CONFIG_HAS_CIDRS`](crate::rule::CONFIG_HAS_CIDRS) is set and [`TARGETS`] has nothing.
pub const CIDRS: &str = "CIDRS";
/// Hash: [`PortKey`](crate::key::PortKey) → [`Entry`](crate::rule::Entry); read only after a hit with
/// [`ENTRY_HAS_PORTS`](crate::rule::ENTRY_HAS_PORTS).
pub const PORT_TARGETS: &str = "PORT_TARGETS";
/// Array: rule slot → [`Rule`](crate::rule::Rule).
pub const RULES: &str = "RULES";
/// Array: handle → the slot in [`RULES`] that it stands for, plus one; [`NO_RULE`](crate::rule::NO_RULE): none.
pub const HANDLES: &str = "HANDLES";
/// LPM trie: [`NetworkKey`](crate::key::NetworkKey) of the set → `u32` (any value: presence is the match).
pub const PEERS: &str = "PEERS";
/// Per-CPU hash: [`CounterKey`](crate::key::CounterKey) → [`Counter`](crate::counter::Counter).
pub const COUNTERS: &str = "COUNTERS";
/// Hash: state slot (`u32`) → [`TargetState`](crate::counter::TargetState).
pub const STATE: &str = "STATE";
/// Hash: [`FlowKey`](crate::key::FlowKey) → [`Flow`](crate::counter::Flow), filled by the programs.
pub const FLOWS: &str = "FLOWS";
/// Hash: [`Address`](crate::key::Address) → `u32` (any value): this node's own addresses.
pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
/// Hash: [`PortKey`](crate::key::PortKey) of the far end → `u32` of `PROTECTED_*` bits.
pub const PROTECTED: &str = "PROTECTED";
/// LPM trie: [`NetworkKey`](crate::key::NetworkKey) of the far end → `u32` (any value).
pub const PROTECTED_CIDRS: &str = "PROTECTED_CIDRS";
/// Array of one: [`Config`](crate::rule::Config). Its name ends in [`ABI_VERSION`](crate::ABI_VERSION), so that an
/// object of another version has no map of this name.
pub const CONFIG: &str = "CONFIG_8";
/// Array of one: [`Filter`](crate::filter::Filter). The loader makes it of the section of this name, all of which is one variable of
/// the programs; they read that without a lookup.
pub const FILTER: &str = ".bss";
/// Array of one: [`Line`](crate::line::Line).
pub const LINE: &str = "LINE";
/// Array of one: [`Held`](crate::line::Held).
pub const HELD: &str = "HELD";
/// Array of one `u64`: the line's engine writes CLOCK_BOOTTIME there while it lives; see [`crate::line::is_alive`].
pub const ENGINE: &str = "ENGINE";
/// Hash: a number (`u32`) → [`Queued`](crate::ticket::Queued) of the packet with it in the line of the engine `fq`.
pub const TICKETS: &str = "TICKETS";
/// Array of one `u64`: the number of the next packet that goes into the line of the engine `fq`.
pub const SEQUENCE: &str = "SEQUENCE";
/// Array of one: [`Lead`](crate::lead::Lead) of the engine `fq`.
pub const LEAD: &str = "LEAD";
/// Per-CPU array of [`LATENESS_ENTRIES`](crate::lateness::LATENESS_ENTRIES) `u64`: how late packets left the line of the
/// engine `fq`; see [`crate::lateness`].
pub const LATENESS: &str = "LATENESS";
/// Per-CPU array: [`Global`](crate::counter::Global) → `u64`.
pub const GLOBAL: &str = "GLOBAL";
/// Program array of the TC dispatchers; see [`SLOT_TC_INGRESS`] and [`SLOT_TC_EGRESS`].
pub const PROGRAMS_TC: &str = "PROGRAMS_TC";
/// Program array of the XDP dispatcher; see [`SLOT_XDP_INGRESS`].
pub const PROGRAMS_XDP: &str = "PROGRAMS_XDP";

/// The level of the programs' log, a byte: `aya_log_ebpf::macro_support::AYA_LOG_LEVEL`.
pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";

/// What is attached to TC ingress: a tail call to [`TC_INGRESS`], and NEXT where there is none.
pub const TC_INGRESS_DISPATCH: &str = "tc_ingress_dispatch";
/// What is attached to TC egress: a tail call to [`TC_EGRESS`], and NEXT where there is none.
pub const TC_EGRESS_DISPATCH: &str = "tc_egress_dispatch";
/// What is attached to XDP: a tail call to [`XDP_INGRESS`], and XDP_PASS where there is none.
pub const XDP_DISPATCH: &str = "xdp_dispatch";
/// Decides on what comes from a device.
pub const TC_INGRESS: &str = "tc_ingress";
/// Decides on what goes to a device.
pub const TC_EGRESS: &str = "tc_egress";
/// Decides on what comes from a device, before the kernel has made an skb.
pub const XDP_INGRESS: &str = "xdp_ingress";

/// As [`TC_INGRESS_DISPATCH`], where [`XDP_DISPATCH`] is attached too: calls [`TC_REST`].
pub const TC_REST_DISPATCH: &str = "tc_rest_dispatch";
/// Decides on what comes from a device as far as [`XDP_INGRESS`] did not.
pub const TC_REST: &str = "tc_rest";
/// As [`TC_INGRESS_DISPATCH`], on an interface without an Ethernet header: calls [`TC_IP_INGRESS`].
pub const TC_IP_INGRESS_DISPATCH: &str = "tc_ip_ingress_dispatch";
/// As [`TC_EGRESS_DISPATCH`], on an interface without an Ethernet header: calls [`TC_IP_EGRESS`].
pub const TC_IP_EGRESS_DISPATCH: &str = "tc_ip_egress_dispatch";
/// As [`TC_INGRESS`], for packets that begin with IP.
pub const TC_IP_INGRESS: &str = "tc_ip_ingress";
/// As [`TC_EGRESS`], for packets that begin with IP.
pub const TC_IP_EGRESS: &str = "tc_ip_egress";
/// All that is attached to TC ingress of interfaces.
pub const INGRESS_DISPATCHERS: [&str; 3] = [TC_INGRESS_DISPATCH, TC_REST_DISPATCH, TC_IP_INGRESS_DISPATCH];
/// All that is attached to TC egress of interfaces.
pub const EGRESS_DISPATCHERS: [&str; 2] = [TC_EGRESS_DISPATCH, TC_IP_EGRESS_DISPATCH];
/// Decides on a packet of a target that one of the programs above has found. It is one of its own since the verifier walks all
/// of it once for each program that has it.
pub const TC_JUDGE: &str = "tc_judge";
/// Carries out the plan of a packet that came in.
pub const TC_ACT_INGRESS: &str = "tc_act_ingress";
/// Carries out the plan of a packet that goes out.
pub const TC_ACT_EGRESS: &str = "tc_act_egress";
/// Answers in the stead of a packet that came in.
pub const TC_REJECT_INGRESS: &str = "tc_reject_ingress";
/// Answers in the stead of a packet that goes out.
pub const TC_REJECT_EGRESS: &str = "tc_reject_egress";
/// Attached to egress of the delay line of the engine `fq`: says when packets leave.
pub const LINE_START: &str = "line_start";
/// Attached to ingress of the delay line: sends packets where their tickets say.
pub const LINE_END: &str = "line_end";
/// Attached to ingress of the splitter's far end: sends packets back to their hook.
pub const SPLITTER_END: &str = "splitter_end";

/// Slot of [`TC_INGRESS`] in [`PROGRAMS_TC`].
pub const SLOT_TC_INGRESS: u32 = 0;
/// Slot of [`TC_EGRESS`] in [`PROGRAMS_TC`].
pub const SLOT_TC_EGRESS: u32 = 1;
/// Slot of [`XDP_INGRESS`] in [`PROGRAMS_XDP`].
pub const SLOT_XDP_INGRESS: u32 = 0;
/// Slot of [`TC_REST`] in [`PROGRAMS_TC`].
pub const SLOT_TC_REST: u32 = 2;
/// Slot of [`TC_ACT_INGRESS`] in [`PROGRAMS_TC`].
pub const SLOT_TC_ACT_INGRESS: u32 = 3;
/// Slot of [`TC_ACT_EGRESS`] in [`PROGRAMS_TC`].
pub const SLOT_TC_ACT_EGRESS: u32 = 4;
/// Slot of [`TC_REJECT_INGRESS`] in [`PROGRAMS_TC`].
pub const SLOT_TC_REJECT_INGRESS: u32 = 5;
/// Slot of [`TC_REJECT_EGRESS`] in [`PROGRAMS_TC`].
pub const SLOT_TC_REJECT_EGRESS: u32 = 6;
/// Slot of [`TC_IP_INGRESS`] in [`PROGRAMS_TC`].
pub const SLOT_TC_IP_INGRESS: u32 = 7;
/// Slot of [`TC_IP_EGRESS`] in [`PROGRAMS_TC`].
pub const SLOT_TC_IP_EGRESS: u32 = 8;
/// Slot of [`TC_JUDGE`] in [`PROGRAMS_TC`].
pub const SLOT_TC_JUDGE: u32 = 9;

/// What is in [`PROGRAMS_TC`].
pub const TC_SLOTS: [(u32, &str); 10] = [
    (SLOT_TC_INGRESS, TC_INGRESS),
    (SLOT_TC_EGRESS, TC_EGRESS),
    (SLOT_TC_REST, TC_REST),
    (SLOT_TC_ACT_INGRESS, TC_ACT_INGRESS),
    (SLOT_TC_ACT_EGRESS, TC_ACT_EGRESS),
    (SLOT_TC_REJECT_INGRESS, TC_REJECT_INGRESS),
    (SLOT_TC_REJECT_EGRESS, TC_REJECT_EGRESS),
    (SLOT_TC_IP_INGRESS, TC_IP_INGRESS),
    (SLOT_TC_IP_EGRESS, TC_IP_EGRESS),
    (SLOT_TC_JUDGE, TC_JUDGE),
];
