//! The paper's experiments: recipes, their records, tables, figures and the report.

mod recipe;
mod tables;

pub use recipe::{Recipe, RunResult, run_name, train_all};
pub use tables::{run_table, text_table};
