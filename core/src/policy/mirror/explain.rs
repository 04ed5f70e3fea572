//! Who gets a copy.

use super::Mirror;
use crate::policy::explain::line;

/// `name`: of the mirror's upstream.
pub fn explain(mirror: &Mirror, name: &str, out: &mut String) {
    let (percent, bytes) = (mirror.chance.percent(), mirror.body_bytes_max);
    line(out, "mirror", format_args!("{name}: {percent} % of the requests, bodies up to {bytes} bytes"));
}
