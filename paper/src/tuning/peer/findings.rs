use super::comparison::{PeerComparison, PeerVerdict, STANDARD_ERRORS};
use crate::numbers::told;
use crate::statistics::beyond_by_chance;

/// How many differences are within two standard errors, which are not, and how many would not be by
/// chance.
pub fn peer_findings(comparison: &PeerComparison) -> Vec<String> {
    let is = |verdict: PeerVerdict| comparison.rows.iter().filter(move |r| r.verdict == verdict);
    let (within, beyond) = (
        is(PeerVerdict::Within).count(),
        is(PeerVerdict::Beyond).count(),
    );
    let known = within + beyond;
    let mut findings = Vec::new();
    if known > 0 {
        // Seeds of both sides, of equal spread: t with n + n' − 2 degrees of freedom.
        let judged = comparison
            .rows
            .iter()
            .filter(|row| row.standard_errors.is_some());
        let expected: f64 = judged
            .map(|row| beyond_by_chance(STANDARD_ERRORS, row.ours.count + row.peer.count - 2))
            .sum();
        findings.push(format!(
            "{within} of {known} differences between our means and the peer's are within two standard \
             errors; with so few seeds about {expected:.1} would not be, if both were the same."
        ));
    }
    for row in is(PeerVerdict::Beyond) {
        findings.push(format!(
            "{}, {}: {} {} here, {} there: {} by {:.1} standard errors.",
            row.setting.task,
            row.setting.label(),
            row.metric,
            told(Some(&row.ours), 4),
            told(Some(&row.peer), 4),
            if row.difference > 0.0 {
                "higher"
            } else {
                "lower"
            },
            row.standard_errors.unwrap_or(f64::NAN).abs(),
        ));
    }
    let little = is(PeerVerdict::TooLittle).count();
    if little > 0 {
        findings.push(format!(
            "Of {little} differences there is too little to say: fewer than two seeds on one side, or \
             seeds that all gave the same number."
        ));
    }
    findings
}
