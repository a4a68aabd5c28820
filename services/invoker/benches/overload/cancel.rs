//! How soon a run is gone when its caller is.

use std::time::Instant;

use crate::{
    crm::{Crm, Event},
    load::p99,
    service::{End, Service},
};

const CANCELS: usize = 400;

/// p99 in milliseconds. The service has one place, so the next call gets in when the run is gone.
pub(crate) async fn measure(service: &Service, crm: &Crm) -> f64 {
    let mut latencies = Vec::with_capacity(CANCELS);
    for number in 0..CANCELS {
        // Waits outside, or is busy for good.
        let what = if number % 2 == 0 { "hang" } else { "loop" };
        let call = tokio::spawn(service.call(number, what));
        assert_eq!(crm.next().await, Event::Here);
        let left = Instant::now();
        call.abort();
        if what == "hang" {
            assert_eq!(crm.next().await, Event::Left);
        }
        while service.call(number, "nothing").await == End::Refused {}
        latencies.push(left.elapsed());
    }
    let gone = (p99(latencies) * 1e3).round() / 1e3;
    eprintln!("cancel: gone within {gone} ms, p99");
    gone
}
