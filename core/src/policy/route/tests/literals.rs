//! Filters before regexes: none keeps back what fits, whatever the literals are, and most keep back the rest.

use proptest::prelude::{
    Just, ProptestConfig, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use regex_syntax::ParserBuilder;

use super::super::literal_filter::{rarest_windows, required_literals};
use super::super::{PathPattern, RouteRule, RouteTable, Verdict, WholeRegex, builder};
use super::{GET, Headers, Request, lookup, path, regex};

fn literals(pattern: &str) -> Vec<String> {
    let hir = ParserBuilder::new().unicode(false).utf8(false).build().parse(pattern).unwrap();
    required_literals(&hir).iter().map(|literal| String::from_utf8_lossy(literal).into_owned()).collect()
}

#[test]
fn what_every_text_that_fits_contains() {
    for (pattern, expected) in [
        (".*/service-17/items/[0-9]+", &["/service-17/items/"][..]),
        ("/first.*second[0-9]third", &["/first", "second", "third"]),
        // Too short to be looked for.
        ("/ab.*abc", &[]),
        ("(?i)/letters/1234", &["/1234"]),
        ("/one(?-i)more/(?i)b/last-", &["/onemore/"]),
        // A choice, and what need not be there, are no literals but end them.
        ("/left/(?:one|other)/right", &["/left/", "/right"]),
        ("/left(?:/middle)?/right", &["/left", "/right"]),
        ("/left(?:/middle)*/right", &["/left", "/right"]),
        // The first of several times touches what is before, and none what follows.
        ("/left(?:/middle)+/right", &["/left/middle", "/right"]),
        ("/left(?:/mid.dle)+/right", &["/left/mid", "/right"]),
        ("/left(?:/mid.dle){1}/right", &["/left/mid", "dle/right"]),
        ("a{6}bcdef", &["bcdef"]),
        // What takes no byte leaves no gap.
        (r"/le(f)t\b/ri(?:)ght$", &["/left/right"]),
        ("^/start", &["/start"]),
        ("(?:/a|/b)cdef", &["cdef"]),
        ("/aaaa|/bbbb", &[]),
        (".*", &[]),
        ("", &[]),
    ] {
        assert_eq!(literals(pattern), expected, "{pattern}");
    }
    let long = format!("{}.{}.{}", "a".repeat(200), "b".repeat(100), "c".repeat(9));
    assert_eq!(literals(&long), ["a".repeat(200), "b".repeat(56)]);
}

#[test]
fn the_rarest_window_stands_for_a_pattern() {
    let patterns = [".*/common/one/x.*", ".*/common/two.y/zzzz.*", ".*/common/", ".*/abc", ".*zzzzzzz"];
    let literals: Vec<_> = patterns.iter().map(|pattern| regex(pattern)).collect();
    let literals: Vec<_> = literals.iter().map(WholeRegex::required_literals).collect();
    let windows = rarest_windows(&literals).into_iter().map(|window| format!("{window:?}"));
    let bytes = |text: &str| format!("{:?}", text.as_bytes());
    let expected = [
        format!("Some(Long({}))", bytes("common/o")),
        format!("Some(Long({}))", bytes("common/t")),
        format!("Some(Long({}))", bytes("/common/")),
        format!("Some(Short({}))", bytes("/abc")),
        format!("Some(Short({}))", bytes("zzzz")),
    ];
    assert_eq!(windows.collect::<Vec<_>>(), expected);
}

/// So many that there are more windows than groups, some windows of many patterns, some patterns without one, and some
/// without an automaton.
#[test]
fn thousands_of_regexes() {
    let rule = |n: usize| {
        let pattern = match n % 5 {
            0 => format!("~.*/shared-by-all/[a-z]+-{n}"),
            1 => format!(r"~.*/engine-{n}\b.*"),
            2 => format!("~.*/[x]{n}"),
            _ => format!("~.*/service-{n}/items/[0-9]+"),
        };
        RouteRule { path: path(&pattern), ..RouteRule::default() }
    };
    let count = 4_000;
    let table = RouteTable::new((0..count).map(rule).collect());
    for n in (0..count).step_by(37).chain([count, count + 1, count + 2, count + 3]) {
        let target = match n % 5 {
            0 => format!("/y/shared-by-all/letters-{n}"),
            1 => format!("/engine-{n}-"),
            2 => format!("/y/x{n}"),
            _ => format!("/service-1/items/service-{n}/items/5"),
        };
        assert_eq!(lookup(&table, Request { target: &target, ..GET }), (n < count).then_some(n), "{n}");
    }
}

/// Parts of one another at either end and inside, and all that ends a literal between them.
fn any_pattern() -> impl Strategy<Value = String> {
    let literal = any_literal();
    let other = prop::sample::select(vec![
        ".*", "[0-9]+", "[^/]+", "/?", r"\b", "^", "$", "(?i)", "(?-i)", "|", "()",
    ]);
    let part = prop_oneof![
        6 => literal.clone().prop_map(str::to_owned),
        3 => other.prop_map(str::to_owned),
        1 => literal.clone().prop_map(|literal| format!("(?:{literal})?")),
        1 => literal.clone().prop_map(|literal| format!("(?:{literal})+")),
        1 => literal.clone().prop_map(|literal| format!("(?:{literal}){{2}}")),
        1 => literal.clone().prop_map(|literal| format!("(?i:{literal})")),
        1 => (literal.clone(), literal).prop_map(|(one, other)| format!("(?:{one}|{other})")),
    ];
    let start = prop_oneof![4 => Just(".*"), 1 => Just("/"), 1 => Just("/.*")];
    (start, prop::collection::vec(part, 1..5)).prop_map(|(start, parts)| format!("{start}{}", parts.concat()))
}

fn any_literal() -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(vec![
        "abcd",
        "bcde",
        "abcde",
        "bcd",
        "aaaa",
        "aaaaa",
        "aaaaaaaaa",
        "/abcd/",
        "/abcdefgh/",
        "cdefgh/",
        "abcdefgh",
    ])
}

fn any_target() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => any_literal().prop_map(str::to_owned),
        1 => any_literal().prop_map(str::to_uppercase),
        1 => prop::sample::select(vec!["/", "7", "x", "a"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| format!("/{}", parts.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn filtered_regexes_are_the_regexes(
        patterns in prop::collection::vec(any_pattern(), 4..40),
        targets in prop::collection::vec(any_target(), 1..24),
    ) {
        let rules: Vec<RouteRule> = patterns
            .iter()
            .map(|pattern| RouteRule { path: path(&format!("~{pattern}")), ..RouteRule::default() })
            .collect();
        let (joined, filtered) = (RouteTable::new(rules.clone()), builder::build(rules.clone(), 0));
        for target in &targets {
            let fits: Vec<bool> = rules
                .iter()
                .map(|rule| match &rule.path {
                    PathPattern::Regex(regex) => {
                        let literals = regex.required_literals();
                        let fits = regex.is_match(target.as_bytes());
                        let contains = |literal: &[u8]| {
                            target.as_bytes().windows(literal.len()).any(|part| part == literal)
                        };
                        prop_assert!(!fits || literals.iter().all(|literal| contains(literal)), "{} {:?}", target, regex);
                        Ok(fits)
                    }
                    _ => Ok(false),
                })
                .collect::<Result<_, _>>()?;
            let naive = fits.iter().position(|fits| *fits);
            let request = Request { target, ..GET };
            for table in [&joined, &filtered] {
                prop_assert_eq!(lookup(table, request), naive, "{}", target);
                let explanation = table.explain(&request.key(), &Headers(&[]));
                prop_assert_eq!(explanation.winner, naive, "{}", target);
                let agreed: Vec<bool> = explanation
                    .verdicts
                    .iter()
                    .map(|verdict| !matches!(verdict, Verdict::Rejected(_)))
                    .collect();
                prop_assert_eq!(&agreed, &fits, "{}", target);
            }
        }
    }
}
