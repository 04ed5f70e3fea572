//! Memory that the allocator leaves as it is: large tables that workers share (zero, in huge pages where the system allows it,
//! and not resident before they are touched), and the program's own pages. Called by whoever assembles what workers share, and
//! by the binaries once they serve. A table is given back by its owner, who drops it.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::sync::atomic::AtomicU64;

use rustix::mm::{Advice, madvise};

use crate::base::limits::HUGE_TABLE_BYTES_MIN;

/// Of `x86_64`, and of `aarch64` with pages of 4 KiB. Where they are larger, the system uses those that fit.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// `count` words that are zero.
///
/// From [`HUGE_TABLE_BYTES_MIN`] on, the system is asked for huge pages (`MADV_HUGEPAGE`, which it heeds unless
/// `/sys/kernel/mm/transparent_hugepage/enabled` says `never`): then the way through the page tables to a word is short and
/// stays in caches. The first touch of any word takes 2 MiB, so a table that is used at all is soon there as a whole; one
/// that nobody uses takes nothing.
#[allow(unsafe_code)]
#[allow(clippy::cast_ptr_alignment, reason = "the layout has the alignment")]
pub fn zeroed(count: usize) -> Box<[AtomicU64]> {
    let Ok(layout) = Layout::array::<AtomicU64>(count) else {
        handle_alloc_error(Layout::new::<AtomicU64>());
    };
    if layout.size() == 0 {
        return Box::default();
    }
    // WHY: safe code writes each word of a new table: all of it is resident before the first request (350 MiB for 20 million
    // keys), and in small pages, which advice that comes later does not change.
    // SAFETY: the layout is not empty. Zero is a value of an atomic word like any other, so zeroed memory with the layout of
    // `count` words is `count` words. The global allocator has allocated it with the layout that the box will free it with,
    // and nobody else has the pointer.
    let words = unsafe {
        let start = alloc_zeroed(layout);
        if start.is_null() {
            handle_alloc_error(layout);
        }
        Box::from_raw(std::ptr::slice_from_raw_parts_mut(start.cast::<AtomicU64>(), count))
    };
    prefer_huge_pages(&words);
    words
}

/// Best effort: without, everything works as before, but slower.
#[allow(unsafe_code)]
fn prefer_huge_pages(words: &[AtomicU64]) {
    if size_of_val(words) < HUGE_TABLE_BYTES_MIN {
        return;
    }
    // Only whole huge pages, so that the allocator's other memory beside them stays as it is.
    let range = words.as_ptr_range();
    let start = range.start.addr().next_multiple_of(HUGE_PAGE_BYTES);
    let bytes = range.end.addr().saturating_sub(start) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    let start = range.start.with_addr(start).cast_mut().cast();
    // WHY: among ten million keys a decision of a rate limit takes 200 ns instead of 330, since it no longer walks through page
    // tables that are in no cache: `cargo bench -p ringway --bench rate_limit -- many`.
    // SAFETY: this advice changes what pages the memory is made of, never what is in it, and the range is inside of `words`.
    // EINVAL: a kernel without huge pages.
    let _ = unsafe { madvise(start, bytes, Advice::LinuxHugepage) };
}

/// Lets go of the program's text, and that of its libraries: what runs comes back, 64 KiB at a time, from the page cache;
/// what only starting needed does not. Called once, when the start is over. Best effort.
///
/// Not under a debugger, whose breakpoints stand in these pages.
pub fn release_program_text() {
    let traced = std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
    });
    if traced {
        return;
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, bytes) in maps.lines().filter_map(text_mapping) {
        release_text(start, bytes);
    }
}

/// Start and length of a line of `/proc/self/maps`, if it is text: a file's, private, and neither writable nor ever written.
fn text_mapping(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_text = words.next()? == "r-xp" && words.nth(3).is_some_and(|path| path.starts_with('/'));
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    let (start, end) = (address(start)?, address(end)?);
    (is_text && end > start).then(|| (start, end - start))
}

#[allow(unsafe_code)]
fn release_text(start: usize, bytes: usize) {
    let start = std::ptr::with_exposed_provenance_mut(start);
    // WHY: an idle edge with one worker had 10 MiB resident, of which 5 only starting had needed; safe code
    // has no means to give pages back. Figures: docs/performance.md.
    // SAFETY: the pages are a file's, mapped privately, and have never been written: they are executable and not writable,
    // this program is position-independent without text relocations, and no debugger is attached. So the next access, of
    // whichever thread, reads the same bytes from the file again. EINVAL: such pages are locked; they stay.
    let _ = unsafe { madvise(start, bytes, Advice::LinuxDontNeed) };
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::{HUGE_PAGE_BYTES, release_program_text, text_mapping, zeroed};
    use crate::base::limits::HUGE_TABLE_BYTES_MIN;

    /// Resident KiB of the mapping that holds an address, and its flags.
    fn mapping(address: usize) -> (usize, String) {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let bounds = range.map(|(a, b)| [a, b].map(|hex| usize::from_str_radix(hex, 16)));
            !matches!(bounds, Some([Ok(from), Ok(to)]) if (from..to).contains(&address))
        });
        let mut of = |name: &str| lines.find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        let resident = of("Rss:").split(' ').next().unwrap().parse().unwrap();
        (resident, of("VmFlags:"))
    }

    #[test]
    fn any_number_of_words_is_zero_and_ours() {
        let large = HUGE_TABLE_BYTES_MIN / size_of::<u64>();
        for count in [0, 1, 512, large - 1, large, 3 * large + 1] {
            let words = zeroed(count);
            assert_eq!(words.len(), count);
            for word in &words {
                assert_eq!(word.swap(u64::MAX, Relaxed), 0);
            }
        }
    }

    #[test]
    fn a_large_table_costs_nothing_until_it_is_touched() {
        // So large that it is a mapping of its own, and that what an allocator adds does not matter.
        let words = zeroed((512 << 20) / size_of::<u64>());
        let middle = &words[words.len() / 2];
        let address = std::ptr::from_ref(middle).addr();
        let (resident, flags) = mapping(address);
        assert!(resident < 1_024, "{resident} KiB are resident");
        if std::fs::exists("/sys/kernel/mm/transparent_hugepage/enabled").unwrap() {
            assert!(flags.split(' ').any(|flag| flag == "hg"), "it was not advised: {flags}");
        }
        middle.store(1, Relaxed);
        // A huge page, or a small one where the system has or gives none.
        let (resident, _) = mapping(address);
        assert!((4..=1_024 + HUGE_PAGE_BYTES / 1_024).contains(&resident), "{resident} KiB are resident");
    }

    #[test]
    fn only_text_of_files_is_released() {
        let text = "7f00a000-7f00c000 r-xp 00001000 08:01 77 /usr/lib/libc.so.6";
        assert_eq!(text_mapping(text), Some((0x7f00_a000, 0x2000)));
        for other in [
            "7f00a000-7f00c000 r--p 00001000 08:01 77 /usr/lib/libc.so.6",
            "7f00a000-7f00c000 rwxp 00001000 08:01 77 /usr/lib/libc.so.6",
            "7f00a000-7f00c000 r-xs 00001000 08:01 77 /usr/lib/libc.so.6",
            "7f00a000-7f00c000 r-xp 00000000 00:00 0",
            "7f00a000-7f00c000 r-xp 00000000 00:00 0 [vdso]",
            "7f00c000-7f00a000 r-xp 00001000 08:01 77 /usr/lib/libc.so.6",
            "no line",
            "",
        ] {
            assert_eq!(text_mapping(other), None, "{other}");
        }
    }

    /// Other tests run at the same time and bring pages back, but not all of them at once.
    #[test]
    fn text_that_was_released_comes_back_when_it_runs() {
        let load: fn(&[u8], &str, u64) -> _ = crate::config::load;
        let run = || assert!(load(b"", "empty.yaml", 1).is_err());
        run();
        let less = (0..100).any(|_| {
            let (before, _) = mapping(load as usize);
            release_program_text();
            let (after, _) = mapping(load as usize);
            run();
            after < before
        });
        assert!(less, "all of it stays resident");
    }
}
