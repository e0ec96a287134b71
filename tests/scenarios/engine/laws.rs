//! What the engine of scenarios stands on, tested without running any: the schema, the name server, the answers, and
//! the judge with his proof. The engine itself is a program without a test harness.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

mod dns;
mod falsify;
mod judge;
mod load;
#[path = "server/plan.rs"]
mod plan;
mod record;
mod schema;
mod units;

#[path = "laws/judge.rs"]
mod judge_laws;
#[path = "laws/load.rs"]
mod load_laws;
#[path = "laws/names.rs"]
mod names_laws;
#[path = "laws/plan.rs"]
mod plan_laws;
#[path = "laws/units.rs"]
mod units_laws;
