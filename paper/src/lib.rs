//! The paper's experiments: recipes, their records, tables, figures and the report.

mod audit;
mod compare;
mod compare_adapters;
mod drawing;
mod findings;
mod link;
mod matching;
mod metrics;
mod numbers;
mod page;
mod pair;
mod protocol;
mod rank_link;
mod recipe;
mod records;
mod report;
mod reproduce;
mod statistics;
mod style;
mod tables;
mod theory;
mod tuning;

pub use audit::{
    audit_cells, audit_page, audit_summary_cells, audit_table, audit_text, findings_table,
    overview_cells, overview_text, pair_page, refused_table,
};
pub use compare::{Comparison, Difference, Numbers, Row, Verdict, compare};
pub use compare_adapters::{
    ComparisonReport, LikenessMatrix, PAIR_LEGEND, comparison_findings, comparison_labels,
    comparison_section, course_cells, course_chart, grid_table, intruder_cells, layer_chart,
    likeness_cells, likeness_maps, likeness_table, list_cells, pair_module_cells, pairs_table,
    similarity_maps, updates_table,
};
pub use drawing::{bound_chart, figure1, rank_scatter, ratio_chart};
pub use findings::{link_findings, theory_findings, training_findings};
pub use link::{Link, RANK_MEASURES, link};
pub use metrics::{
    AdapterRanks, Aggregate, Join, Joined, MetricColumns, Outcome, adapter_ranks, join,
    metrics_from_runs,
};
pub use page::PageHead;
pub use pair::{pair_cells, pair_chart, pair_findings, pair_table};
pub use rank_link::{
    MeasureLink, RankLink, link_sentences, rank_link, rank_link_cells, rank_link_chart,
    rank_link_outcome_chart, rank_link_table,
};
pub use recipe::{Recipe, RunResult, run_name, train_all};
pub use records::{Configuration, Run, by_configuration};
pub use report::DIFFERENCES;
pub use reproduce::{Report, Stage, reproduce_quick, theory_table, write_figure};
pub use statistics::{Spread, median};
pub use tables::{
    Cells, comparison_cells, counterexample_cells, difference_cells, link_cells, random_cells,
    run_cells, text_columns, text_table, theory_cells, theory_summary_cells,
    violates_a_proved_bound,
};
pub use theory::{
    ScalingRecord, descent_cells, descent_chart, descent_findings, scaling_chart,
    transformer_cells, transformer_chart, transformer_findings,
};
pub use tuning::{
    LeftOut, PeerComparison, PeerRow, PeerRun, PeerVerdict, TuningGroup, TuningReport, TuningRow,
    TuningRun, TuningRuns, TuningSeeds, TuningSetting, compare_with_peer, peer_cells, peer_figure,
    peer_findings, peer_runs, peer_table, tuning_cells, tuning_curves, tuning_findings,
    tuning_modules, tuning_page, tuning_rank_cells, tuning_ranks, tuning_summary_cells,
    tuning_summary_table, tuning_table,
};
