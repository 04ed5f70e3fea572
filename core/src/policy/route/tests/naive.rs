//! Look-up and explanation against the documented rule, word by word, at the cost of looking at every route.

use std::cmp::Reverse;
use std::net::IpAddr;

use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::super::{
    FieldPattern, HostPattern, Network, PathPattern, Precedence, RouteRule, RouteTable, ValuePattern,
    Verdict, builder,
};
use super::{Headers, Request, field, host, path};

/// The part of the rule of precedence that fails first, or the rank.
type Judgement = Result<Rank, Precedence>;

/// In the order of the text; the greater wins.
type Rank =
    ((u8, usize), (u8, Vec<u8>, usize), bool, usize, usize, usize, Option<u8>, (u8, usize), Reverse<usize>);

fn host_rank(pattern: &HostPattern, name: &str) -> Option<(u8, usize)> {
    match pattern {
        HostPattern::Exact(exact) => (**exact == *name).then_some((2, 0)),
        HostPattern::Wildcard(suffix) => {
            (name.ends_with(&**suffix) && name.len() > suffix.len()).then_some((1, suffix.len()))
        }
    }
}

fn path_rank(pattern: &PathPattern, path: &str) -> Option<(u8, Vec<u8>, usize)> {
    let fits = match pattern {
        PathPattern::Any => return Some((0, Vec::new(), 0)),
        PathPattern::Exact(exact) => return (**exact == *path).then_some((4, Vec::new(), 0)),
        PathPattern::Regex(regex) => path.starts_with('/') && regex.is_match(path.as_bytes()),
        PathPattern::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            let rest = path.strip_prefix(prefix)?;
            let fits = path.starts_with('/') && (rest.is_empty() || rest.starts_with('/'));
            return fits.then_some((1, Vec::new(), prefix.len()));
        }
        PathPattern::Template(template) => {
            let text = template.to_string();
            let wanted: Vec<&str> = text.strip_prefix('/')?.split('/').collect();
            let given: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
            let mut ranks = Vec::new();
            for (index, wanted) in wanted.iter().enumerate() {
                if wanted.ends_with("=**}") {
                    ranks.push(0);
                    return Some((3, ranks, 0));
                }
                let given = given.get(index)?;
                if wanted.starts_with('{') {
                    ranks.push(2);
                    if given.is_empty() {
                        return None;
                    }
                } else {
                    ranks.push(3);
                    if given != wanted {
                        return None;
                    }
                }
            }
            ranks.push(1);
            return (given.len() == wanted.len()).then_some((3, ranks, 0));
        }
    };
    fits.then_some((2, Vec::new(), 0))
}

fn agrees(field: &FieldPattern, value: Option<&str>) -> bool {
    match (&field.value, value) {
        (ValuePattern::Absent, None) | (ValuePattern::Present, Some(_)) => true,
        (ValuePattern::Exact(wanted), Some(value)) => **wanted == *value.as_bytes(),
        (ValuePattern::Prefix(wanted), Some(value)) => value.as_bytes().starts_with(wanted),
        (ValuePattern::Regex(regex), Some(value)) => regex.is_match(value.as_bytes()),
        _ => false,
    }
}

fn judge(rule: &RouteRule, index: usize, request: &Request<'_>) -> Judgement {
    let (path, query) = request.target.split_once('?').unwrap_or((request.target, ""));
    let pairs = |text: &'static str| {
        move |pair: &str| pair.split_once(text).map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    let parameter = |name: &str| query.split('&').filter_map(pairs("=")).find(|(key, _)| key == name);
    let header = |name: &str| request.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let cookie = |name: &str| {
        header("cookie").unwrap_or_default().split("; ").filter_map(pairs("=")).find(|(key, _)| key == name)
    };
    let value = |pair: &Option<(String, String)>, field: &FieldPattern| {
        agrees(field, pair.as_ref().map(|(_, value)| value.as_str()))
    };
    let by_host = match rule.hosts.as_slice() {
        [] => Some((0, 0)),
        hosts => hosts.iter().filter_map(|pattern| host_rank(pattern, request.host)).max(),
    };
    let by_host = by_host.ok_or(Precedence::Host)?;
    let by_path = path_rank(&rule.path, path).ok_or(Precedence::Path)?;
    if !rule.methods.is_empty() && !rule.methods.iter().any(|method| **method == *request.method.as_bytes()) {
        return Err(Precedence::Methods);
    }
    if !rule.headers.iter().all(|field| agrees(field, header(&field.name))) {
        return Err(Precedence::Headers);
    }
    if !rule.query.iter().all(|field| value(&parameter(&field.name), field)) {
        return Err(Precedence::Query);
    }
    if !rule.cookies.iter().all(|field| value(&cookie(&field.name), field)) {
        return Err(Precedence::Cookies);
    }
    let by_source = if rule.sources.is_empty() {
        None
    } else {
        let contains = |network: &&Network| request.source.is_some_and(|source| inside(network, source));
        let longest = rule.sources.iter().filter(contains).map(|network| network.prefix_bits).max();
        Some(longest.ok_or(Precedence::Source)?)
    };
    let by_name = if rule.server_names.is_empty() {
        (0, 0)
    } else {
        let name = request.server_name.ok_or(Precedence::ServerName)?;
        let best = rule.server_names.iter().filter_map(|pattern| host_rank(pattern, name)).max();
        best.ok_or(Precedence::ServerName)?
    };
    Ok((
        by_host,
        by_path,
        !rule.methods.is_empty(),
        rule.headers.len(),
        rule.query.len(),
        rule.cookies.len(),
        by_source,
        by_name,
        Reverse(index),
    ))
}

/// By the bits as a text.
fn inside(network: &Network, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
    };
    let address = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    address.is_ipv4() == network.address.is_ipv4()
        && bits(address).starts_with(&bits(network.address)[..usize::from(network.prefix_bits)])
}

/// Few labels and segments, so that rules and requests meet often.
fn any_host() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("test")], 1..4)
        .prop_map(|labels| labels.join("."))
}

fn any_pattern() -> impl Strategy<Value = HostPattern> {
    (any_host(), any::<bool>()).prop_map(|(name, wild)| host(&if wild { format!("*.{name}") } else { name }))
}

fn any_segments(max: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(
        prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just(""), 1 => Just("ab"), 1 => Just("aa"), 1 => Just("bb")],
        0..max,
    )
}

fn any_path() -> impl Strategy<Value = String> {
    any_segments(4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn any_template() -> impl Strategy<Value = String> {
    let segment = prop_oneof![2 => Just("a"), 2 => Just("b"), 4 => Just("*"), 1 => Just("")];
    (prop::collection::vec(segment, 0..4), any::<bool>()).prop_filter_map(
        "no variable",
        |(segments, rest)| {
            let named = segments.iter().enumerate().map(|(index, segment)| match *segment {
                "*" => format!("/{{v{index}}}"),
                literal => format!("/{literal}"),
            });
            let mut text: String = named.collect();
            if rest {
                text.push_str("/{rest=**}");
            }
            text.contains('{').then_some(text)
        },
    )
}

fn any_regex() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "~/a/.*",
        "~/.*b",
        "~/a/[ab]+",
        "~/a/b/?",
        "~/a/b.*",
        "~.*",
        "~/(?:a|b)/b",
        "~(?i)/A/.*",
        r"~/a\b.*",
        "~/b/a",
        "~//.*",
        "~.*/aa/a.*",
        "~.*aa/a",
        "~/.*(?:/aa)?/a/bb.*",
        "~(?i).*/AA/A.*",
        "~.*(?:aa/|/bb/)a/bb",
        "~/ab?/.*",
        "~x",
    ])
}

pub(super) fn any_rule() -> impl Strategy<Value = RouteRule> {
    let path_text = prop_oneof![
        1 => Just(String::new()),
        2 => any_path(),
        2 => any_path().prop_map(|path| format!("={path}")),
        3 => any_template(),
        3 => any_regex().prop_map(str::to_owned),
    ];
    let fields = || prop::sample::subsequence(vec!["x=1", "y+", "z-", "w~[0-9]", "v^1"], 0..3);
    let methods = prop::sample::subsequence(vec!["GET", "POST"], 0..2);
    let networks = prop::sample::subsequence(
        vec![
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.0.1",
            "0.0.0.0/0",
            "::/0",
            "2001:db8::/32",
            "::ffff:10.1.0.0/112",
        ],
        0..3,
    );
    let sometimes = |chance: f64| prop::bool::weighted(chance);
    (
        prop::collection::vec(any_pattern(), 0..3),
        path_text,
        methods,
        (fields(), sometimes(0.4)),
        (fields(), sometimes(0.4)),
        (fields(), sometimes(0.4)),
        (networks, sometimes(0.4)),
        (prop::collection::vec(any_pattern(), 0..3), sometimes(0.4)),
    )
        .prop_map(|(hosts, path_text, methods, headers, query, cookies, sources, names)| {
            let fields = |(fields, used): (Vec<&str>, bool)| {
                fields.into_iter().filter(|_| used).map(field).collect::<Vec<_>>()
            };
            RouteRule {
                hosts,
                path: path(&path_text),
                methods: methods.iter().map(|method| method.as_bytes().into()).collect(),
                headers: fields(headers),
                query: fields(query),
                cookies: fields(cookies),
                sources: sources.0.iter().filter(|_| sources.1).map(|text| text.parse().unwrap()).collect(),
                server_names: names.0.into_iter().filter(|_| names.1).collect(),
            }
        })
}

fn any_source() -> impl Strategy<Value = Option<IpAddr>> {
    let texts = vec!["10.0.0.1", "10.1.0.1", "10.1.0.2", "11.0.0.1", "::1", "2001:db8::1", "::ffff:10.1.0.1"];
    prop::option::weighted(0.8, prop::sample::select(texts).prop_map(|text| text.parse().unwrap()))
}

/// A request that owns its parts.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    host: String,
    target: String,
    method: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    cookies: String,
    source: Option<IpAddr>,
    server_name: Option<String>,
}

impl Owned {
    pub(super) fn headers(&self) -> Vec<(&str, &str)> {
        let cookie = (!self.cookies.is_empty()).then_some(("cookie", self.cookies.as_str()));
        self.fields.iter().copied().chain(cookie).collect()
    }

    pub(super) fn request<'r>(&'r self, headers: &'r [(&'r str, &'r str)]) -> Request<'r> {
        Request {
            host: &self.host,
            target: &self.target,
            method: self.method,
            headers,
            source: self.source,
            server_name: self.server_name.as_deref(),
        }
    }
}

pub(super) fn any_request() -> impl Strategy<Value = Owned> {
    (
        any_host(),
        prop_oneof![8 => any_path(), 1 => Just("*".to_owned())],
        prop::sample::subsequence(vec!["x=1", "x=2", "y=", "z=3", "w=7", "v=12"], 0..6),
        prop::sample::select(vec!["GET", "POST", "PUT"]),
        prop::sample::subsequence(vec![("x", "1"), ("y", "2"), ("z", "3"), ("w", "8"), ("v", "1")], 0..5),
        prop::sample::subsequence(vec!["y=2", "x=1", "x=3", "z=", "w=a", "w=5", "v=1"], 0..6),
        any_source(),
        prop::option::weighted(0.7, any_host()),
    )
        .prop_map(|(host, path, query, method, fields, cookies, source, server_name)| Owned {
            host,
            // Only OPTIONS comes with `*`.
            method: if path == "*" { "OPTIONS" } else { method },
            target: format!("{path}?{}", query.join("&")),
            fields,
            cookies: cookies.join("; "),
            source,
            server_name,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_naive_reading(
        rules in prop::collection::vec(any_rule(), 0..24),
        requests in prop::collection::vec(any_request(), 1..24),
        joined in any::<bool>(),
    ) {
        // Without steps for products, a few regexes are already so many that a filter is put before them.
        let table = if joined { RouteTable::new(rules.clone()) } else { builder::build(rules.clone(), 0) };
        for owned in &requests {
            let headers = owned.headers();
            let request = owned.request(&headers);
            let judged: Vec<Judgement> =
                rules.iter().enumerate().map(|(index, rule)| judge(rule, index, &request)).collect();
            let ranks = judged.iter().enumerate().filter_map(|(index, rank)| Some((rank.as_ref().ok()?, index)));
            let best = ranks.max();
            let naive = best.as_ref().map(|(_, index)| *index);
            let view = Headers(&headers);
            prop_assert_eq!(table.lookup(&request.key(), &view), naive, "{:?}", owned);
            let explanation = table.explain(&request.key(), &view);
            prop_assert_eq!(explanation.winner, naive, "{:?}", owned);
            for (index, (verdict, judged)) in explanation.verdicts.iter().zip(&judged).enumerate() {
                match (verdict, judged) {
                    (Verdict::Chosen, Ok(_)) => prop_assert_eq!(Some(index), naive),
                    (Verdict::Outranked { by }, Ok(own)) => {
                        let (best, _) = best.as_ref().unwrap();
                        prop_assert_eq!(*by, decides(best, own), "{:?} {}", owned, index);
                    }
                    (Verdict::Rejected(reason), Err(part)) => {
                        prop_assert_eq!(reason.part(), *part, "{:?} {}", owned, index);
                    }
                    _ => prop_assert!(false, "{owned:?} {index}: {verdict:?} but {judged:?}"),
                }
            }
        }
    }
}

fn decides(best: &Rank, own: &Rank) -> Precedence {
    let differs = [
        best.0 != own.0,
        best.1 != own.1,
        best.2 != own.2,
        best.3 != own.3,
        best.4 != own.4,
        best.5 != own.5,
        best.6 != own.6,
        best.7 != own.7,
        true,
    ];
    let rules = [
        Precedence::Host,
        Precedence::Path,
        Precedence::Methods,
        Precedence::Headers,
        Precedence::Query,
        Precedence::Cookies,
        Precedence::Source,
        Precedence::ServerName,
        Precedence::Order,
    ];
    rules[differs.iter().position(|differs| *differs).unwrap()]
}
