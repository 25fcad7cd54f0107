//! The stage of the stories about packets.

#[expect(dead_code, reason = "their stories use the rest")]
#[path = "../kernel_packets/support/agent.rs"]
pub(crate) mod agent;
#[expect(dead_code, reason = "their stories use the rest")]
#[path = "../kernel_packets/support/conversation.rs"]
pub(crate) mod conversation;
#[path = "../kernel_packets/support/cpu.rs"]
pub(crate) mod cpu;
#[expect(dead_code, reason = "their stories use the rest")]
#[path = "../kernel_packets/support/fault.rs"]
pub(crate) mod fault;
#[expect(dead_code, reason = "their stories use the rest")]
#[path = "../kernel_packets/support/numbers.rs"]
pub(crate) mod numbers;
#[expect(dead_code, reason = "their stories use the rest")]
#[path = "../kernel_packets/support/space.rs"]
pub(crate) mod space;
#[expect(dead_code, reason = "their stories use the rest")]
#[path = "../kernel_packets/support/stage.rs"]
pub(crate) mod stage;
#[expect(dead_code, reason = "their stories use the rest")]
#[path = "../kernel_packets/support/time.rs"]
pub(crate) mod time;
#[expect(dead_code, reason = "their stories use the rest")]
#[path = "../kernel_packets/support/traffic.rs"]
pub(crate) mod traffic;
