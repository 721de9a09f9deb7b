use rankwise_data::GlueTask;

use super::Metric;

/// The official metrics of a task of GLUE; the first decides between epochs and settings, being the
/// one that papers on adapters report where they report one. The leaderboard's score of a task with
/// two is their mean.
///
/// Source: Wang et al., GLUE (ICLR 2019), Table 1 and section 3.
///
/// ```
/// use rankwise_data::GlueTask;
/// use rankwise_training::{Metric, glue_metrics};
/// assert_eq!(glue_metrics(GlueTask::Stsb), [Metric::Pearson, Metric::Spearman]);
/// ```
pub fn glue_metrics(task: GlueTask) -> &'static [Metric] {
    match task {
        GlueTask::Cola => &[Metric::Matthews],
        GlueTask::Mrpc | GlueTask::Qqp => &[Metric::Accuracy, Metric::F1],
        GlueTask::Stsb => &[Metric::Pearson, Metric::Spearman],
        GlueTask::Sst2 | GlueTask::Mnli | GlueTask::Qnli | GlueTask::Rte | GlueTask::Wnli => {
            &[Metric::Accuracy]
        }
    }
}
