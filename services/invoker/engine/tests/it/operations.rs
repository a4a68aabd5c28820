//! Operations: bounded in number and in what their requests hold, and none outlives its run.

use std::sync::Arc;

use chatfn_engine::{Call, FailureKind, FetchResponse, Host, HostOp, NoHost, OpError, OpResult};
use futures_util::future::BoxFuture;
use serde_json::json;

use crate::support::{LIMITS, PATIENCE, Slot, call_of, engine, messages, returned};

/// Never answers, and counts how many operations are under way.
struct Silent(Arc<()>);

impl Host for Silent {
    fn start(&self, _: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        let under_way = Arc::clone(&self.0);
        Box::pin(async move {
            let _under_way = under_way;
            std::future::pending().await
        })
    }
}

/// Answers everything at once, with this body.
struct Answers(&'static [u8]);

impl Host for Answers {
    fn start(&self, op: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        let HostOp::Fetch(request) = op else { panic!("{op:?} is no fetch") };
        Box::pin(std::future::ready(Ok(OpResult::Fetch(FetchResponse {
            status: 200,
            status_text: String::new(),
            url: request.url,
            redirected: false,
            headers: Vec::new(),
            body: self.0.into(),
        }))))
    }
}

#[tokio::test]
async fn operations_are_bounded_and_end_with_the_run() {
    let slot = Slot::new().await;
    let under_way = Arc::new(());
    let body = "
      let refused = 0;
      for (let n = 0; n < 100; n++) fetch('https://crm.example.com').catch(() => refused++);
      await null; await null;
      console.log('refused', refused);
      await new Promise((resolve) => setTimeout(resolve, 1e9));";
    let host = Arc::new(Silent(Arc::clone(&under_way)));
    let report = slot.endless_after(body, host, "refused").await;
    assert!(messages(&report.logs).contains(&"refused 36"), "{:?}", messages(&report.logs));
    assert_eq!(Arc::strong_count(&under_way), 1, "nothing is under way any more");
}

#[tokio::test]
async fn operations_that_are_over_make_room() {
    let slot = Slot::new().await;
    let source = "async function lambda() {
      let answered = 0;
      for (let round = 0; round < 5; round++) {
        await Promise.all(new Array(60).fill(0).map(() => fetch('https://crm.example.com').then(() => answered++)));
        const aborted = new AbortController();
        const refused = new Array(60).fill(0).map(() => fetch('https://crm.example.com', { signal: aborted.signal }).catch((error) => error.name));
        aborted.abort();
        if (!(await Promise.all(refused)).every((name) => name === 'AbortError')) return 'not aborted';
      }
      return answered;
    }";
    let report = slot.run(source, call_of("1", PATIENCE, Arc::new(Answers(b"yes")))).await;
    assert_eq!(returned(&report), 300);
}

#[tokio::test]
async fn requests_are_bounded_by_what_they_hold_together() {
    let slot = Slot::new().await;
    let source = "async function lambda() {
      const body = new Uint8Array(1e6);
      const send = (size) => fetch('https://crm.example.com', { method: 'POST', body: body.subarray(0, size) });
      const refused = [];
      for (let n = 0; n < 12; n++) send(1e6).catch((error) => refused.push(error.message));
      await null; await null;
      return [refused.length, refused[0]];
    }";
    let call = || Call { max_op_bytes: 5 << 20, ..call_of("1", PATIENCE, Arc::new(Silent(Arc::new(())))) };
    let answer = returned(&slot.run(source, call()).await);
    assert_eq!(answer[0], 7, "{answer}");
    assert!(answer[1].as_str().unwrap().contains("too large"), "{answer}");

    let one_after_another = "async function lambda() {
      const body = new Uint8Array(4e6);
      for (let n = 0; n < 12; n++) await fetch('https://crm.example.com', { method: 'POST', body });
      return 'all';
    }";
    let answering = Call { host: Arc::new(Answers(b"yes")), ..call() };
    assert_eq!(returned(&slot.run(one_after_another, answering).await), "all");
}

#[tokio::test]
async fn the_url_and_headers_of_a_request_are_bounded() {
    let slot = Slot::new().await;
    let source = "async function lambda() {
      const large = 'x'.repeat(65536);
      const all = [
        fetch('https://crm.example.com/', { headers: { large } }),
        fetch('https://crm.example.com/', { headers: new Array(2000).fill(0).map((_, n) => ['name' + n, 'x'.repeat(30)]) }),
        fetch('https://crm.example.com/' + large),
        fetch('https://crm.example.com/', { headers: { small: large.slice(0, 60000) } }),
      ];
      return Promise.all(all.map((one) => one.then(() => 'sent', (error) => error.message.includes('64 KiB'))));
    }";
    let report = slot.run(source, call_of("1", PATIENCE, Arc::new(Answers(b"yes")))).await;
    assert_eq!(returned(&report), json!([true, true, true, "sent"]));
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_the_end_of_that_run() {
    static LARGE: [u8; 20 << 20] = [b'x'; 20 << 20];
    let slot = Slot::new().await;
    let call = Call { memory_bytes: 16 << 20, ..call_of("null", PATIENCE, Arc::new(Answers(&LARGE))) };
    let body = "return (await fetch('https://crm.example.com')).text()";
    slot.call_fails(body, call, FailureKind::OutOfMemory).await;
}

#[tokio::test]
async fn questions_about_urls_are_bounded() {
    let slot = Slot::new().await;
    let body = "
      const large = 'x'.repeat(1 << 17);
      const throws = (code) => { try { code(); return 'no' } catch (error) { return [error.name, error.message.length < 300] } };
      const url = new URL('https://a.test/?x=1');
      return [
        throws(() => new URL('https://a.test/' + large)),
        throws(() => new URL(large, 'https://a.test/')),
        URL.canParse('https://a.test/' + large),
        throws(() => url.searchParams.append('large', large)),
        throws(() => { url.href = 'https://a.test/' + large }),
        throws(() => { url.pathname = large }),
        throws(() => { url.hash = large }),
        throws(() => { url.port = 'none' }),
        url.href,
      ];";
    let refused = json!(["TypeError", true]);
    assert_eq!(
        slot.returns(body).await,
        json!([refused, refused, false, refused, refused, refused, refused, "no", "https://a.test/?x=1"])
    );
}

#[tokio::test]
async fn dropping_a_run_drops_its_operations() {
    let under_way = Arc::new(());
    let source = "async function lambda() { await fetch('https://crm.example.com') }";
    let prepared = engine().prepare(source, LIMITS).await.unwrap();
    let host = Arc::new(Silent(Arc::clone(&under_way)));
    let run = tokio::spawn(async move { engine().run(&prepared, call_of("1", PATIENCE, host)).await });
    // The host itself and its operation hold one each.
    while Arc::strong_count(&under_way) < 3 {
        tokio::task::yield_now().await;
    }
    run.abort();
    assert!(run.await.unwrap_err().is_cancelled());
    assert_eq!(Arc::strong_count(&under_way), 1);
}

#[tokio::test]
async fn top_level_code_can_start_none() {
    let caught = "let said; try { fetch('https://crm.example.com') } catch (error) { said = error.message }
      async function lambda() { return said }";
    let prepared = engine().prepare(caught, LIMITS).await.unwrap();
    let report = engine().run(&prepared, call_of("1", PATIENCE, Arc::new(NoHost))).await.unwrap();
    assert!(returned(&report).as_str().unwrap().contains("not available in top-level code"));
}
