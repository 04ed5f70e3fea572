//! Endpoints that carry some labels, as Envoy's subsets: chosen once for each selector of the configuration, not for each
//! request. The result is a list of numbers to lay out ([`super::tiers::Layout`]).

/// Names and values, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Sorts them. Of two with the same name the later one counts.
    pub fn new<'l>(pairs: impl IntoIterator<Item = (&'l str, &'l str)>) -> Self {
        let sorted: std::collections::BTreeMap<&str, &str> = pairs.into_iter().collect();
        Self(sorted.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// Whether all of `selector`'s labels are among these, with their values.
    pub fn carry(&self, selector: &Self) -> bool {
        let mut left = self.0.iter();
        // Both are sorted, so what was passed over is not wanted any more.
        selector.0.iter().all(|wanted| left.any(|label| label == wanted))
    }
}

/// The numbers of the endpoints whose labels carry `selector`'s, in ascending order. An empty selector selects all.
pub fn select(endpoints: &[Labels], selector: &Labels) -> Vec<u32> {
    (0..).zip(endpoints).filter(|(_, labels)| labels.carry(selector)).map(|(number, _)| number).collect()
}

#[cfg(test)]
mod tests {
    use super::{Labels, select};

    #[test]
    fn selects_by_all_labels() {
        let endpoints = [
            Labels::new([("version", "2"), ("stage", "canary"), ("zone", "a")]),
            Labels::new([("stage", "live"), ("version", "1")]),
            Labels::new([("stage", "live"), ("version", "2")]),
            Labels::default(),
        ];
        for (selector, expected) in [
            (&[][..], &[0, 1, 2, 3][..]),
            (&[("version", "2")], &[0, 2]),
            (&[("version", "2"), ("stage", "live")], &[2]),
            (&[("stage", "live"), ("version", "2")], &[2]),
            (&[("version", "2"), ("zone", "a")], &[0]),
            (&[("version", "3")], &[]),
            (&[("vers", "2")], &[]),
            (&[("version", "")], &[]),
            (&[("version", "1"), ("version", "2")], &[0, 2]),
        ] {
            assert_eq!(select(&endpoints, &Labels::new(selector.iter().copied())), expected, "{selector:?}");
        }
        assert!(select(&[], &Labels::default()).is_empty());
    }
}
