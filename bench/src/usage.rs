//! What the kernel has booked on processes: CPU time, context switches, memory. Read from /proc, sums over trees.

use std::fs;

/// Accounts of one process and all its descendants, since each started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time, from the scheduler's own nanosecond accounts.
    pub cpu_ns: u64,
    pub switches_voluntary: u64,
    pub switches_involuntary: u64,
}

impl Usage {
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            switches_voluntary: self.switches_voluntary.saturating_sub(earlier.switches_voluntary),
            switches_involuntary: self.switches_involuntary.saturating_sub(earlier.switches_involuntary),
        }
    }
}

/// Resident memory of a process tree, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Memory {
    /// Pages shared between processes count in each of them.
    pub rss_bytes: u64,
    /// Shared pages divided among those that share them.
    pub pss_bytes: u64,
}

/// `pid` and its descendants. A process that ends meanwhile is left out.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut at = 0;
    while at < pids.len() {
        let parent = pids[at];
        for task in tasks(parent) {
            let children =
                fs::read_to_string(format!("/proc/{parent}/task/{task}/children")).unwrap_or_default();
            pids.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        at += 1;
    }
    pids
}

pub fn of_tree(pid: u32) -> Usage {
    let mut usage = Usage::default();
    for pid in tree(pid) {
        for task in tasks(pid) {
            usage.cpu_ns += task_cpu_ns(&format!("/proc/{pid}/task/{task}/schedstat"));
            let status = fs::read_to_string(format!("/proc/{pid}/task/{task}/status")).unwrap_or_default();
            usage.switches_voluntary += number_after(&status, "voluntary_ctxt_switches:");
            usage.switches_involuntary += number_after(&status, "nonvoluntary_ctxt_switches:");
        }
    }
    usage
}

pub fn memory_of_tree(pid: u32) -> Memory {
    let mut memory = Memory::default();
    for pid in tree(pid) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        memory.rss_bytes += number_after(&rollup, "Rss:") * 1024;
        memory.pss_bytes += number_after(&rollup, "Pss:") * 1024;
    }
    memory
}

/// CPU time of the calling thread.
pub fn own_thread_cpu_ns() -> u64 {
    task_cpu_ns("/proc/thread-self/schedstat")
}

fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn task_cpu_ns(schedstat: &str) -> u64 {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// The number in the line that starts with `key`.
fn number_after(text: &str, key: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(key));
    rest.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::{memory_of_tree, number_after, of_tree, own_thread_cpu_ns, tree};

    #[test]
    fn a_tree_is_summed() {
        // The shell waits for a child that waits for its standard input: two processes until we close it.
        let mut shell = Command::new("sh")
            .args(["-c", "cat; :"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a shell");
        while tree(shell.id()).len() < 2 {
            assert!(shell.try_wait().expect("a child").is_none(), "the shell ended early");
            std::thread::yield_now();
        }
        assert!(of_tree(shell.id()).cpu_ns > 0);
        let memory = memory_of_tree(shell.id());
        assert!(memory.pss_bytes > 0 && memory.rss_bytes >= memory.pss_bytes, "{memory:?}");
        drop(shell.stdin.take());
        shell.wait().expect("a child");
        assert_eq!(of_tree(shell.id()).cpu_ns, 0);
    }

    #[test]
    fn own_time_grows() {
        let before = own_thread_cpu_ns();
        while own_thread_cpu_ns() == before {}
        assert!(own_thread_cpu_ns() > before);
    }

    #[test]
    fn lines_are_found_by_their_start() {
        let status = "voluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(number_after(status, "voluntary_ctxt_switches:"), 12);
        assert_eq!(number_after(status, "nonvoluntary_ctxt_switches:"), 3);
        assert_eq!(number_after(status, "absent:"), 0);
    }
}
