use anyhow::Result;
use rankwise_paper::text_table;
use rankwise_training::{DeviceAgreement, DeviceName, compare_devices};

use super::Outcome;
use super::bench::DeviceOptions;
use super::output::{keep, print_json};
use crate::cli::Common;
use crate::stdout::outln;

/// Whether a device computes what the CPU does: small models of every family, float32 and bfloat16.
pub fn run(options: &DeviceOptions, common: &Common) -> Result<Outcome> {
    let device = options.device.unwrap_or(DeviceName::Cpu);
    let all = compare_devices(device)?;
    let is_within = all.iter().all(|one| one.is_within);
    keep(&all, "device", common)?;
    if common.json {
        print_json(&all)?;
    } else if !common.quiet {
        let header = vec![
            "model", "method", "type", "logits", "loss", "gradient", "ms", "within",
        ];
        let row = |one: &DeviceAgreement| {
            vec![
                one.model.to_owned(),
                one.method.to_owned(),
                one.precision.to_owned(),
                format!("{:.1e}", one.outputs),
                format!("{:.1e}", one.loss),
                format!("{:.1e}", one.gradient),
                format!("{:.2}", 1e3 * one.seconds),
                if one.is_within { "yes" } else { "NO" }.to_owned(),
            ]
        };
        outln!("{}", text_table(&(header, all.iter().map(row).collect())));
        outln!(
            "\n{device} beside the CPU's float32: relative distances of logits and gradient, absolute \
             of the loss; within {:.0e} (f32) and {:.0e} (bf16).",
            DeviceAgreement::F32,
            DeviceAgreement::BF16
        );
    }
    Ok(match is_within {
        true => Outcome::Done,
        false => Outcome::CheckFailed,
    })
}
