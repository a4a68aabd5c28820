//! What is measured.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::{
    ROUNDS,
    bare::{Bare, INDEXED, KEYED},
    cluster::{Cluster, LIMIT, ONCE, Runs, TEMPLATE},
    engine::Lambda,
    jetstream::JetStream,
    load::{self, NEIGHBOURS},
    measure::*,
};

/// The subjects, and what was found.
pub(crate) struct Parts {
    pub(crate) cluster: Cluster,
    pub(crate) bare: Bare,
    pub(crate) figures: Map<String, Value>,
}

impl Parts {
    fn add(&mut self, figures: Value) {
        if let Value::Object(figures) = figures {
            self.figures.extend(figures);
        }
    }

    /// Nothing is delivered meanwhile: acknowledging and its limits have the machine to themselves.
    pub(crate) async fn streams(&mut self) {
        self.cluster.hold_lanes().await;
        let jetstream = JetStream::start().await;
        if let Err(reason) = &jetstream {
            eprintln!("no JetStream to compare with: {reason}");
        }
        let (mut streams, mut once, mut inserts, mut indexed, mut peers) =
            (vec![], vec![], vec![], vec![], vec![]);
        for round in 1..=ROUNDS {
            inserts.push(self.bare.coalesced(KEYED, 40_000).await);
            indexed.push(self.bare.coalesced(INDEXED, 40_000).await);
            streams.push(load::streams(&self.cluster, TEMPLATE, 40_000).await);
            once.push(load::streams(&self.cluster, ONCE, 40_000).await);
            if let Ok(jetstream) = &jetstream {
                peers.push(jetstream.publish(5_000).await);
            }
            let (of, to) = (streams[round - 1], inserts[round - 1]);
            eprintln!("streams, round {round}: {of:.0} acknowledgements per second, bare inserts {to:.0}");
        }
        drop(jetstream);
        let (stream, once, insert, indexed) =
            (median(streams), median(once), median(inserts), median(indexed));
        let peer = (!peers.is_empty()).then(|| median(peers));
        self.add(json!({
            "stream_ack_per_s": whole(stream), "bare_insert_per_s": whole(insert),
            "stream_ack_ratio": rounded(stream / insert),
            "indexed_insert_per_s": whole(indexed), "stream_to_indexed_ratio": rounded(stream / indexed),
            "stream_once_ack_ratio": rounded(once / insert),
            "jetstream_per_s": peer.map(whole), "stream_to_jetstream_ratio": peer.map(|peer| rounded(stream / peer)),
        }));
        self.deliver().await;
    }

    /// As [`Parts::streams`].
    pub(crate) async fn calls(&mut self) {
        self.cluster.hold_lanes().await;
        let (mut unary, mut noop, mut singles) = (vec![], vec![], vec![]);
        for round in 1..=ROUNDS {
            noop.push(load::noop(&self.cluster, 100_000).await);
            unary.push(load::unary(&self.cluster, 50_000).await);
            singles.push(self.bare.singles(10_000).await);
            let (of, to) = (unary[round - 1], noop[round - 1]);
            eprintln!("calls, round {round}: {of:.0} acknowledgements per second, {to:.0} of nothing");
        }
        let (unary, noop, single) = (median(unary), median(noop), median(singles));
        self.add(json!({
            "unary_ack_per_s": whole(unary), "noop_per_s": whole(noop), "unary_ack_ratio": rounded(unary / noop),
            "single_insert_per_s": whole(single), "unary_to_single_insert_ratio": rounded(unary / single),
        }));
        self.deliver().await;
    }

    async fn deliver(&self) {
        self.cluster.release_lanes().await;
        eprintln!("delivering what has queued");
        self.cluster.until_done().await;
    }

    pub(crate) async fn delivery(&mut self) {
        let lambdas = Cluster::start(Runs::Lambdas).await;
        let lambda = Lambda::prepare().await;
        let (mut done, mut fake, mut engine, mut pipeline, mut queue, mut noop) =
            (vec![], vec![], vec![], vec![], vec![], vec![]);
        for round in 1..=ROUNDS {
            engine.push(lambda.ceiling(10_000).await);
            pipeline.push(self.bare.pipeline(20_000).await);
            done.push(load::to_done(&lambdas, 20_000).await);
            fake.push(load::to_done(&self.cluster, 20_000).await);
            queue.push(self.bare.skip_locked(10_000).await);
            noop.push(load::noop(&self.cluster, 20_000).await);
            let (done, engine, pipeline) = (done[round - 1], engine[round - 1], pipeline[round - 1]);
            eprintln!(
                "to done, round {round}: {done:.0} per second; engine {engine:.0}, pipeline {pipeline:.0}"
            );
        }
        let (done, fake, engine, pipeline) = (median(done), median(fake), median(engine), median(pipeline));
        // All of it runs on the same cores, so what each part takes of them adds up.
        let parts = 1.0 / (1.0 / engine + 1.0 / pipeline + 1.0 / median(noop));
        self.add(json!({
            "event_to_done_per_s": whole(done), "event_to_done_ratio": rounded(done / engine.min(pipeline)),
            "parts_per_s": whole(parts), "event_to_parts_ratio": rounded(done / parts),
            "engine_per_s": whole(engine), "bare_pipeline_per_s": whole(pipeline),
            "fake_to_done_per_s": whole(fake), "fake_to_done_ratio": rounded(fake / pipeline),
            "skip_locked_per_s": whole(median(queue)),
        }));
    }

    pub(crate) async fn half_load(&mut self) {
        eprintln!("half load");
        let mut sustained = vec![];
        for _ in 0..ROUNDS {
            sustained.push(load::unary_to_done(&self.cluster, 20_000).await);
        }
        let rate = median(sustained) / 2.0;
        let insert = self.bare.steady_singles(rate, Duration::from_secs(10)).await;
        let (ack, start) = load::half_load(&self.cluster, rate, Duration::from_secs(10)).await;
        self.add(json!({
            "half_load_per_s": whole(rate),
            "half_load_insert_p50_ms": quantile(&insert, 0.5), "half_load_insert_p99_ms": quantile(&insert, 0.99),
            "half_load_ack_p50_ms": quantile(&ack, 0.5), "half_load_ack_p99_ms": quantile(&ack, 0.99),
            "half_load_start_p50_ms": quantile(&start, 0.5), "half_load_start_p99_ms": quantile(&start, 0.99),
        }));
    }

    pub(crate) async fn fairness(&mut self) {
        eprintln!("fairness");
        self.cluster.hold_lanes().await;
        let (refusals, _) = tokio::join!(
            load::refusals(&self.cluster, 500),
            load::unary_of(&self.cluster, NEIGHBOURS, 20_000)
        );
        let (mut quota_shares, mut crowd_shares, mut stream_shares) = (vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            let beside = load::beside(&self.cluster, LIMIT, 9 * LIMIT, 20_000).await;
            quota_shares.push(load::beside(&self.cluster, 10 * LIMIT, 0, 20_000).await / beside);
            for (flood, shares) in
                [(load::Flood::Calls, &mut crowd_shares), (load::Flood::Streams, &mut stream_shares)]
            {
                let (alone, with_flood, flood) = load::flooded(&self.cluster, flood, 20_000).await;
                shares.push(with_flood / alone.min((with_flood + flood) / 2.0));
                eprintln!("{alone:.0} alone, {with_flood:.0} beside {flood:.0}");
            }
        }
        self.cluster.release_lanes().await;
        self.cluster.until_done().await;
        self.add(json!({
            "quota_refusal_p99_ms": quantile(&refusals, 0.99), "over_quota_share": rounded(median(quota_shares)),
            "crowd_fair_share": rounded(median(crowd_shares)), "stream_fair_share": rounded(median(stream_shares)),
        }));
    }

    pub(crate) async fn runs(&mut self) {
        eprintln!("runs of two accounts");
        let mut shares = vec![];
        for _ in 0..ROUNDS {
            let (alone, with_hog, hog) = load::hogged(&self.cluster, 1_000).await;
            shares.push(with_hog / alone.min((with_hog + hog) / 2.0));
            eprintln!("{alone:.0} runs alone, {with_hog:.0} beside {hog:.0}");
        }
        self.add(json!({ "run_fair_share": rounded(median(shares)) }));
    }

    pub(crate) async fn growth(&mut self) {
        eprintln!("growth");
        // A new Postgres makes its first files, which those that it is compared with wait for most.
        self.relative().await;
        let before = self.relative().await;
        let stored = self.cluster.store(from_env("CHATFN_BENCH_STORED", 1_000_000)).await;
        let after = self.relative().await;
        self.add(json!({
            "stored_events": stored,
            "growth_ratio": rounded(after.0 / before.0), "growth_done_ratio": rounded(after.1 / before.1),
        }));
    }

    /// Acknowledging and delivering, each relative to what Postgres does at that time.
    async fn relative(&self) -> (f64, f64) {
        let (mut streams, mut done) = (vec![], vec![]);
        for _ in 0..ROUNDS {
            self.cluster.hold_lanes().await;
            let insert = self.bare.coalesced(KEYED, 100_000).await;
            let stream = load::streams(&self.cluster, TEMPLATE, 100_000).await;
            self.cluster.release_lanes().await;
            self.cluster.until_done().await;
            let pipeline = self.bare.pipeline(40_000).await;
            let fake = load::to_done(&self.cluster, 20_000).await;
            eprintln!(
                "{stream:.0} acknowledgements per second, bare inserts {insert:.0}; {fake:.0} to done, pipeline {pipeline:.0}"
            );
            streams.push(stream / insert);
            done.push(fake / pipeline);
        }
        (median(streams), median(done))
    }

    pub(crate) async fn soak(&mut self) {
        let time = Duration::from_secs(from_env("CHATFN_BENCH_SOAK_SECONDS", 20));
        eprintln!("soak of {time:?}");
        let growth = load::soak(&self.cluster, time).await;
        self.add(json!({ "soak_s": time.as_secs(), "soak_rss_growth_mib": rounded(growth) }));
    }

    pub(crate) async fn recovery(&mut self) {
        eprintln!("recovery");
        self.cluster.kill_postgres();
        let begun = Instant::now();
        self.cluster.restart_postgres().await;
        load::first_ack(&self.cluster).await;
        self.add(json!({ "recovery_ms": whole(begun.elapsed().as_secs_f64() * 1e3) }));
    }
}
