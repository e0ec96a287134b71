//! What a scenario's file says. `../README.md` explains every key; a test holds the two together.
//!
//! Invariant: a key that is not here is refused. Names that refer to something (servers, marks, reads) are resolved by
//! [`super::load`], so that whoever runs a scenario finds them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use serde::Deserialize;
use serde_json::Value;

use crate::units::{Size, Span};

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows.
    pub about: String,
    /// What hurt users in the field that it is about.
    #[serde(default)]
    pub pains: Vec<String>,
    /// The fixture image.
    pub image: String,
    /// The run is killed after this time.
    #[serde(default = "two_minutes")]
    pub limit: Span,
    /// The cache directory is a disk of its own, this large.
    #[serde(default)]
    pub disk: Option<Size>,
    /// Whether a collector of traces is there.
    #[serde(default)]
    pub traces: bool,
    /// Names that resolve, and to what.
    #[serde(default)]
    pub names: BTreeMap<String, Vec<Ipv4Addr>>,
    /// The servers, all of them up and well in the beginning.
    pub servers: BTreeMap<String, ServerSpec>,
    /// The daemon's configuration, schema v2; laid over one that has a cache and no prefetch.
    pub config: Value,
    /// What happens.
    pub steps: Vec<Step>,
    /// What must hold in the end.
    pub expect: Vec<Expect>,
}

fn two_minutes() -> Span {
    Span(std::time::Duration::from_secs(120))
}

/// A server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// Where it listens.
    pub listen: SocketAddrV4,
    /// How others call it, if not by `listen`: in redirects, in challenges and in its certificate.
    #[serde(default)]
    pub host: Option<String>,
    /// Whether it speaks TLS.
    #[serde(default)]
    pub tls: bool,
    /// The proof it wants for blobs.
    #[serde(default)]
    pub wants: Proof,
    /// The server that gives tokens for it; needed with `wants: token`.
    #[serde(default)]
    pub realm: Option<String>,
    /// The server that it sends everybody to who asks for a blob, with a signed address.
    #[serde(default)]
    pub leads_to: Option<String>,
    /// How long its tokens and signed addresses hold.
    #[serde(default = "ten_minutes")]
    pub life: Span,
}

fn ten_minutes() -> Span {
    Span(std::time::Duration::from_secs(600))
}

/// What a server wants to see.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    #[default]
    Nothing,
    Basic,
    Token,
    /// A signature that it gave itself, or whoever leads to it.
    Signature,
}

/// One thing that happens. Written as a table with one key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Something breaks. Left out when a scenario is proved.
    Fault(Action),
    /// What broke is well again, or a neutral change.
    Mend(Action),
    /// The daemon starts, and is mounted or refuses.
    Mount(Mount),
    /// Files are read.
    Read(Read),
    /// The whole tree is listed and read.
    Tree(Tree),
    /// Reads in the background have ended.
    Join(Join),
    /// Time passes.
    Wait(Span),
    /// Something comes to hold; an expectation like the others.
    Until(Until),
    /// A name for this point in time.
    Mark(String),
    /// A page of the daemon's API is kept.
    Sample(Sample),
    /// Steps again and again.
    Repeat(Repeat),
}

/// What can break and be mended.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// A server answers otherwise than it should; replaces what was said before.
    Answer(Answers),
    /// A server can be reached, or not.
    Listener(Listener),
    /// A server's clock is wrong.
    Clock(Clock),
    /// A server's tokens and signatures.
    Tokens(Tokens),
    /// A server shows another certificate to who connects from now on.
    Certificate(Certificate),
    /// A name resolves to something else, or not.
    Dns(Dns),
    /// Everything on the network together is this fast.
    Link(Link),
    /// The disk of the cache has only so much room left.
    Disk(Disk),
    /// A daemon is killed or stopped.
    Process(Process),
    /// Configurations of daemons that start from now on; keys are replaced, `null` removes one.
    Config(Value),
}

/// One server or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// How servers answer: the first rule that fits decides.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    pub server: Names,
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// Which requests are answered otherwise, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which requests.
    #[serde(default, rename = "for")]
    pub kind: Kind,
    /// Not the first so many.
    #[serde(default)]
    pub after: u64,
    /// Only so many; the rest falls through to the next rule.
    #[serde(default)]
    pub times: Option<u64>,
    /// Only each so-manieth.
    #[serde(default)]
    pub every: Option<u64>,
    /// What is other than it should be.
    pub then: Distortion,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    #[default]
    Any,
    /// A range of a blob, or where it leads.
    Blobs,
    /// A token.
    Tokens,
    /// Whether the server is there.
    Ping,
}

/// How an answer differs from what is right.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Distortion {
    /// It comes later.
    pub delay: Option<Span>,
    /// It has this status, and `body`.
    pub status: Option<u16>,
    /// These headers are added.
    pub headers: BTreeMap<String, String>,
    /// With `status`.
    pub body: String,
    /// There is none.
    pub instead: Option<Instead>,
    /// It does not come whole.
    pub cut: Option<Cut>,
    /// `Content-Length` is off by this.
    pub length_off: i64,
    /// `Content-Range` is off by this.
    pub range_off: i64,
    /// The whole blob with status 200, whatever range was asked for.
    pub whole: bool,
    /// A bit of the body is the other one.
    pub flip: Option<Place>,
    /// The body is something else of the same length.
    pub other: bool,
    /// Leads here; `{path}` is the path asked for, `{n}` a number that rises.
    pub redirect: Option<String>,
    /// Bytes a second of this body.
    pub pace: Option<Size>,
}

/// What comes instead of an answer.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Instead {
    /// The connection is reset.
    Reset,
    /// The connection is closed.
    Close,
    /// Nothing, for ever.
    Silence,
    /// Bytes that are not HTTP.
    Garbage,
}

/// Where a body ends too early.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// The share of the body that comes, from 0 to 1.
    pub after: f64,
    pub how: How,
}

/// What happens instead of the rest of a body.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    Reset,
    Close,
    Stall,
}

/// A place in a body.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    First,
    Middle,
    Last,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub server: Names,
    pub is: Reach,
}

/// How a server can be reached.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    Open,
    /// Connections are refused, those that were there are closed.
    Closed,
    /// Connections are accepted; nothing is said, on old ones neither.
    Silent,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    pub server: Names,
    /// Seconds that it is fast, or if negative slow. Tokens and signatures go by it, and `Date`.
    pub fast_by: i64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    pub server: Names,
    /// How long those last that are given from now on.
    #[serde(default)]
    pub life: Option<Span>,
    /// What it says of their life, if not the truth.
    #[serde(default)]
    pub says: Option<Span>,
    /// All that were given are void.
    #[serde(default)]
    pub revoke: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub server: Names,
    pub is: Validity,
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Validity {
    Valid,
    Expired,
    NotYet,
    OtherName,
    UnknownAuthority,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    pub name: String,
    pub is: Resolution,
}

/// How a name resolves.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    At(Vec<Ipv4Addr>),
    Unknown,
    Failing,
    Silent,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Bytes a second; absent: no limit.
    #[serde(default)]
    pub rate: Option<Size>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Bytes that stay free; absent: all.
    #[serde(default)]
    pub leaves: Option<Size>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    #[serde(default = "main_daemon")]
    pub daemon: String,
    pub signal: Signal,
}

pub fn main_daemon() -> String {
    "main".into()
}

/// What is done to a daemon.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Signal {
    /// SIGKILL; its mount goes too.
    Kill,
    /// SIGTERM, and its end is waited for.
    Terminate,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mount {
    pub daemon: String,
    /// Variables of its environment.
    pub environment: BTreeMap<String, String>,
}

impl Default for Mount {
    fn default() -> Self {
        Self { daemon: main_daemon(), environment: BTreeMap::new() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// What expectations call these reads.
    pub name: String,
    #[serde(default = "main_daemon")]
    pub daemon: String,
    /// Paths in the image; `DIR/*` are all files of a directory, in the order of their names.
    pub files: Vec<String>,
    /// Without the first so many of those.
    #[serde(default)]
    pub from: usize,
    /// At most so many of those.
    #[serde(default)]
    pub count: Option<usize>,
    /// Who share the files among them.
    #[serde(default = "one")]
    pub readers: usize,
    /// Every reader reads every file.
    #[serde(default)]
    pub each: bool,
    /// Through the page cache; otherwise past it.
    #[serde(default)]
    pub cached: bool,
    /// A reader waits so long before each file.
    #[serde(default)]
    pub pace: Option<Span>,
    /// The next step begins at once.
    #[serde(default)]
    pub background: bool,
    /// Reads that take longer hang, and the run has failed.
    #[serde(default = "thirty_seconds")]
    pub within: Span,
}

fn one() -> usize {
    1
}

fn thirty_seconds() -> Span {
    Span(std::time::Duration::from_secs(30))
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    pub name: String,
    #[serde(default = "main_daemon")]
    pub daemon: String,
    #[serde(default = "thirty_seconds")]
    pub within: Span,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    pub read: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Until {
    pub within: Span,
    pub holds: Expect,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    pub name: String,
    #[serde(default = "main_daemon")]
    pub daemon: String,
    pub page: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    pub times: u32,
    pub steps: Vec<Step>,
}

/// What must hold. Written as a table with one key.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Expect {
    Reads(Reads),
    Tree(TreeIs),
    Requests(Requests),
    Connections(Connections),
    Tried(Tried),
    Elapsed(Elapsed),
    Log(Log),
    Secrets(Secrets),
    Sample(SampleIs),
    Spans(Spans),
    Daemon(DaemonIs),
}

/// A number's limits; at least one is given.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub at_least: Option<f64>,
    pub at_most: Option<f64>,
    pub exactly: Option<f64>,
}

/// A time's limits.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Times {
    pub at_least: Option<Span>,
    pub at_most: Option<Span>,
}

/// How reads ended. Whatever it says, none may have brought a wrong byte, and none may hang.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reads {
    pub of: String,
    /// Each of them; absent: either way.
    #[serde(default)]
    pub end: Option<Vec<End>>,
    /// How many there were.
    #[serde(default)]
    pub count: Option<Limits>,
    /// How many of them succeeded.
    #[serde(default)]
    pub good: Option<Limits>,
    /// How long each took.
    #[serde(default)]
    pub each: Option<Times>,
    /// How long the fastest took.
    #[serde(default)]
    pub fastest: Option<Times>,
}

/// How a read ends.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum End {
    #[serde(rename = "ok")]
    Ok,
    #[serde(rename = "EIO")]
    Eio,
    #[serde(rename = "ETIMEDOUT")]
    Etimedout,
    /// The daemon is gone.
    #[serde(rename = "ENOTCONN")]
    Enotconn,
}

/// The whole tree was like its manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeIs {
    pub of: String,
}

/// A stretch of time between marks; absent: from the beginning, to the end.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    pub from: Option<String>,
    pub to: Option<String>,
}

/// How many requests a server got.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    pub server: Names,
    #[serde(default, rename = "for")]
    pub kind: Kind,
    /// Only those answered so; 0 is "not at all".
    #[serde(default)]
    pub status: Option<u16>,
    /// Only those whose head has this text in it, in small letters.
    #[serde(default)]
    pub with: Option<String>,
    #[serde(default)]
    pub during: Window,
    pub count: Limits,
}

/// How many connections a server accepted.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    pub server: Names,
    #[serde(default)]
    pub during: Window,
    pub count: Limits,
}

/// How many connections were begun, accepted or refused, as the kernel counts them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    #[serde(default)]
    pub during: Window,
    pub count: Limits,
}

/// How long it was from one mark to another.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Elapsed {
    pub during: Window,
    pub time: Times,
}

/// How many lines of the daemon's log say something.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// All of these, in one line, in whatever case.
    pub says: Vec<String>,
    #[serde(default)]
    pub during: Window,
    pub count: Limits,
}

/// Passwords, tokens and signatures are not told in logs, samples and spans.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secrets {
    /// How many there are at least to be found.
    pub known: usize,
}

/// What a sample has at a place.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleIs {
    pub of: String,
    /// In JSON, by its pointer.
    #[serde(default)]
    pub pointer: Option<String>,
    /// In Prometheus text, by the name of the series and all of these labels.
    #[serde(default)]
    pub series: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// It is this text.
    #[serde(default)]
    pub text: Option<String>,
    /// It is such a number; of several series the sum.
    #[serde(default)]
    pub number: Option<Limits>,
}

/// How many spans came to the collector.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spans {
    pub name: String,
    /// With these attributes.
    #[serde(default)]
    pub with: BTreeMap<String, String>,
    #[serde(default)]
    pub failed: Option<bool>,
    pub count: Limits,
}

/// What became of a daemon in the end.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonIs {
    #[serde(default = "main_daemon")]
    pub daemon: String,
    pub is: Fate,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is mounted.
    Running,
    /// It refused to start.
    Refused,
    /// It ended with status 0 when it was told to.
    Ended,
    /// It was killed.
    Killed,
}
