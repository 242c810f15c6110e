//! What ran on a GPU and when: for profiles, off unless asked for.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cudarc::driver::CudaEvent;

use super::{Cuda, between_ms};
use crate::Result;

/// One launch: a kernel, a product or a fill.
#[derive(Clone, Debug, PartialEq)]
pub struct Traced {
    /// The id of the variant or of the product, `gemm-m3-n4-k5-bf16-f32`; `fill` for zeros.
    pub label: String,
    /// When the GPU began, in milliseconds since the trace was started.
    pub start_ms: f64,
    /// When it was done.
    pub end_ms: f64,
    /// When the host had launched it.
    pub host_ms: f64,
}

/// What was noted so far.
pub(super) struct Trace {
    /// The moment from which all times count, as the GPU and as the host saw it.
    origin: (CudaEvent, Instant),
    spans: Vec<Span>,
}

struct Span {
    label: String,
    start: CudaEvent,
    end: CudaEvent,
    host: Duration,
}

impl Cuda {
    /// Waits for the GPU, forgets what was noted so far, and notes each launch from now on, between two events. That costs a launch some
    /// microseconds on the host and one or two on the GPU.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if something that was launched failed.
    pub fn trace(&self) -> Result<()> {
        self.synchronize()?;
        let origin = self.timestamp()?;
        self.synchronize()?;
        *self.trace.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Trace { origin: (origin, Instant::now()), spans: Vec::new() });
        self.tracing.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Waits for the launches since [`trace`](Self::trace) and tells them, in order; none are noted after that.
    ///
    /// # Errors
    /// [`Error::Cuda`](crate::Error::Cuda) if one of them failed.
    pub fn take_trace(&self) -> Result<Vec<Traced>> {
        self.tracing.store(false, Ordering::Relaxed);
        let trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Trace { origin: (origin, _), spans }) = trace else { return Ok(Vec::new()) };
        let since = |event: &CudaEvent| between_ms(&origin, event).map(f64::from);
        let told = |Span { label, start, end, host }: Span| {
            Ok(Traced { start_ms: since(&start)?, end_ms: since(&end)?, host_ms: host.as_secs_f64() * 1e3, label })
        };
        spans.into_iter().map(told).collect()
    }

    /// Launches something, and notes it if launches are noted.
    pub(crate) fn traced(&self, label: impl FnOnce() -> String, launch: impl FnOnce() -> Result<()>) -> Result<()> {
        if !self.tracing.load(Ordering::Relaxed) {
            return launch();
        }
        let start = self.timestamp()?;
        launch()?;
        let end = self.timestamp()?;
        if let Some(trace) = self.trace.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            trace.spans.push(Span { label: label(), start, end, host: trace.origin.1.elapsed() });
        }
        Ok(())
    }
}
