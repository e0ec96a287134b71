//! What a server asks for with `WWW-Authenticate`.

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token, to be had at `realm`.
    Bearer {
        /// The address of the token service.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What it must allow.
        scope: Option<String>,
    },
}

/// More than any server needs, less than would hurt.
const MAX_HEADER: usize = 8 << 10;

impl Challenge {
    /// The challenges of one header value, as far as they are known and well-formed; a token is better than a
    /// password, so bearer challenges come first.
    pub(crate) fn parse(header: &str) -> Vec<Self> {
        if header.len() > MAX_HEADER {
            return Vec::new();
        }
        let mut found = Vec::new();
        let mut rest = header.trim_start_matches([' ', '\t', ',']);
        while let Some((scheme, after)) = token(rest) {
            let (parameters, after) = parameters(after);
            if scheme.eq_ignore_ascii_case("basic") {
                found.push(Self::Basic);
            } else if scheme.eq_ignore_ascii_case("bearer") {
                let get = |name: &str| {
                    let named = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    named.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
                };
                if let Some(realm) = get("realm") {
                    found.push(Self::Bearer { realm, service: get("service"), scope: get("scope") });
                }
            }
            rest = after.trim_start_matches([' ', '\t', ',']);
        }
        found.sort_by_key(|challenge| matches!(challenge, Self::Basic));
        found
    }
}

/// A token of RFC 9110 at the beginning, and what follows.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `name=value` or `name="value"`, comma-separated, until something that is not such a pair: the next challenge.
fn parameters(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        let start = rest.trim_start_matches([' ', '\t', ',']);
        let Some((name, after)) = token(start) else { return (found, start) };
        let Some(after) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            return (found, start);
        };
        let after = after.trim_start_matches([' ', '\t']);
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => match unquote(quoted) {
                Some(unquoted) => unquoted,
                None => return (found, ""),
            },
            // Be generous: a realm without quotes has characters that are not of a token.
            None => {
                let end = after.find([',', ' ', '\t']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        found.push((name.to_owned(), value));
        rest = after;
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[index + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn challenges_of_real_registries() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/ubuntu:pull""#,
                vec![bearer(
                    "https://auth.docker.io/token",
                    Some("registry.docker.io"),
                    Some("repository:library/ubuntu:pull"),
                )],
            ),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            (r#"BASIC realm="x", charset="UTF-8""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (
                r#"Basic realm="a, b", Bearer realm="https://h/t",scope="repository:a:pull,push""#,
                vec![bearer("https://h/t", None, Some("repository:a:pull,push")), Challenge::Basic],
            ),
            ("Bearer realm=https://h/t , service = s", vec![bearer("https://h/t", Some("s"), None)]),
            (r#"Bearer realm="say \"hi\"""#, vec![bearer("say \"hi\"", None, None)]),
            (r#"Negotiate abc==, Basic realm="x""#, vec![Challenge::Basic]),
        ] {
            assert_eq!(Challenge::parse(header), expected, "{header}");
        }
    }

    #[test]
    fn what_is_no_challenge_is_none() {
        for header in
            ["", ",,,", "Bearer", r#"Bearer service="s""#, r#"Bearer realm="open"#, "=", "\"", "Digest a=b"]
        {
            assert_eq!(Challenge::parse(header), [], "{header}");
        }
        assert_eq!(Challenge::parse(&"Basic,".repeat(10_000)), []);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_no_panic(header in r#"([Bb]earer|Basic|[ -~]{0,5}|[ ,="\\é]{0,4}|realm="[a-z]*"){0,12}"#) {
            let _ = Challenge::parse(&header);
        }
    }
}
