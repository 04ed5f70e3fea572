//! What faults a route makes on purpose.

use super::FaultInjection;
use crate::policy::explain::line;

/// `agrees`: the request has the header fields that the fault asks for.
pub fn explain(fault: &FaultInjection, agrees: bool, out: &mut String) {
    if !agrees {
        return line(out, "fault", format_args!("none: its header fields don't agree"));
    }
    if let Some((duration, chance)) = fault.delay {
        line(out, "fault", format_args!("waits {duration:?}, {} % of the requests", chance.percent()));
    }
    if let Some((status, chance)) = fault.abort {
        line(out, "fault", format_args!("{status} fault_injected, {} % of the requests", chance.percent()));
    }
}
