use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, WeakProgressBar};

/// The bar that was made last: the only one that may still be drawn.
static LAST: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// A bar with the time left on standard error; nothing when that is not a terminal, or `quiet`.
pub fn bar(length: usize, unit: &'static str, quiet: bool) -> ProgressBar {
    let target = if quiet {
        ProgressDrawTarget::hidden()
    } else {
        ProgressDrawTarget::stderr()
    };
    let style = "{msg:24} {bar:32} {pos}/{len} {prefix} · {elapsed} gone, {eta} left";
    let style = ProgressStyle::with_template(style).expect("the template is well formed");
    let bar = ProgressBar::with_draw_target(Some(length as u64), target)
        .with_style(style)
        .with_prefix(Cow::Borrowed(unit));
    if !bar.is_hidden() {
        bar.enable_steady_tick(Duration::from_millis(200));
    }
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.downgrade());
    bar
}

/// Takes the bar away, so that a last word can be printed.
pub fn clear() {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(bar) = last.and_then(|bar| bar.upgrade()) {
        bar.finish_and_clear();
    }
}
