//! The toolbelt as lambdas of the hosted product use it. HTTPClient is in `toolbelt_http.rs`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatfn_engine::{
    FailureKind, FetchRequest, FetchResponse, FunctionFailure, FunctionOutcome, FunctionRequest, Host,
    HostOp, OpError, OpResult, PrepareError, SecretRequest, SecretText, ServiceLocation,
};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::support::{PATIENCE, call, call_of, failure, refusal, returned, run};

type Answers = dyn Fn(&HostOp) -> Option<Result<OpResult, OpError>> + Send + Sync;

/// A host that answers as the test says, never where it says nothing, and remembers what it was asked.
pub(crate) struct Scripted {
    answers: Box<Answers>,
    asked: Mutex<Vec<HostOp>>,
}

impl Scripted {
    pub(crate) fn new(
        answers: impl Fn(&HostOp) -> Option<Result<OpResult, OpError>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { answers: Box::new(answers), asked: Mutex::default() })
    }

    /// One that answers requests.
    pub(crate) fn http(answer: impl Fn(&FetchRequest) -> FetchResponse + Send + Sync + 'static) -> Arc<Self> {
        Self::new(move |op| match op {
            HostOp::Fetch(request) => Some(Ok(OpResult::Fetch(answer(request)))),
            _ => None,
        })
    }

    pub(crate) fn requests(&self) -> Vec<FetchRequest> {
        let asked = self.asked.lock().unwrap();
        let requests = asked.iter().filter_map(|op| match op {
            HostOp::Fetch(request) => Some(request.clone()),
            _ => None,
        });
        requests.collect()
    }

    fn secrets(&self) -> Vec<SecretRequest> {
        let asked = self.asked.lock().unwrap();
        let reads = asked.iter().filter_map(|op| match op {
            HostOp::ReadSecret(request) => Some(request.clone()),
            _ => None,
        });
        reads.collect()
    }

    fn functions(&self) -> Vec<FunctionRequest> {
        let asked = self.asked.lock().unwrap();
        let invoked = asked.iter().filter_map(|op| match op {
            HostOp::InvokeFunction(request) => Some(request.clone()),
            _ => None,
        });
        invoked.collect()
    }

    /// What an ES module's lambda with this body returns.
    pub(crate) async fn returns(self: &Arc<Self>, body: &str) -> Value {
        let source = format!(
            "import {{ Toolbelt, SecretClient, HTTPClient, LpClient, ConversationUtil, OrchestratorClient, ErrorCodes }}
             from 'core-functions-toolbelt';
             const caught = (error) => ({{ name: error.name, code: error.code, message: error.message }});
             export async function lambda(input) {{ {body} }}"
        );
        let host: Arc<dyn Host> = Arc::clone(self) as _;
        returned(&run(&source, call_of("null", PATIENCE, host)).await)
    }
}

impl Host for Scripted {
    fn start(&self, op: HostOp) -> BoxFuture<'static, Result<OpResult, OpError>> {
        let answer = (self.answers)(&op);
        self.asked.lock().unwrap().push(op);
        match answer {
            Some(answer) => Box::pin(std::future::ready(answer)),
            None => Box::pin(std::future::pending()),
        }
    }
}

/// An answer with a body.
pub(crate) fn response(status: u16, body: impl Into<String>) -> FetchResponse {
    FetchResponse {
        status,
        status_text: String::new(),
        url: "https://answered.example/".to_owned(),
        redirected: false,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: body.into().into(),
    }
}

pub(crate) fn header<'a>(request: &'a FetchRequest, name: &str) -> Option<&'a str> {
    request.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn refused(code: &str) -> Result<OpResult, OpError> {
    Err(OpError { code: Some(code.to_owned()), message: format!("because of {code}"), ..OpError::default() })
}

/// Secrets by name: `missing` and `broken` fail.
fn secret(op: &HostOp) -> Option<Result<OpResult, OpError>> {
    let HostOp::ReadSecret(SecretRequest { key, .. }) = op else { return None };
    Some(match key.as_str() {
        "missing" => refused("SECRET_NOT_FOUND"),
        "broken" => refused("SECRETS_UNAVAILABLE"),
        "late" => refused("SECRET_TIMED_OUT"),
        "bad key" => refused("SECRET_KEY_INVALID"),
        _ => Ok(OpResult::Secret(SecretText(format!("value of {key} ä")))),
    })
}

#[tokio::test]
async fn both_names_and_both_styles_are_the_same_toolbelt() {
    let members = "['SecretClient', 'HTTPClient', 'LpClient', 'ConversationUtil', 'OrchestratorClient']";
    for source in [
        format!(
            "const {{ Toolbelt, SecretClient }} = require('lp-faas-toolbelt');
             const other = require('core-functions-toolbelt');
             function lambda(input, callback) {{
               callback(null, {members}.every((name) => typeof Toolbelt[name] === 'function' && Toolbelt[name] === other[name])
                 && typeof new SecretClient().readSecret === 'function' && typeof Toolbelt.SecretClient().readSecret === 'function');
             }}"
        ),
        format!(
            "import belt, {{ Toolbelt, SecretClient, ErrorStrategy, LpServices, ConversationContentTypes as types }} from 'lp-faas-toolbelt';
             import * as all from 'core-functions-toolbelt';
             export default async () => {members}.every((name) => Toolbelt[name] === all[name]) && belt.Toolbelt === all.Toolbelt
               && typeof new SecretClient().readSecret === 'function' && ErrorStrategy.EXIT_ON_ERROR === 'ExitOnError'
               && LpServices.MSG_HIST === 'msgHist' && types.UNAUTH_SDES === 'unAuthSdes' && types.COBROWSE_SESSIONS === 'coBrowseSessions'
               && types.MESSAGE_RECORDS === 'messageRecords';"
        ),
    ] {
        assert_eq!(returned(&run(&source, call("null")).await), json!(true), "{source}");
    }
}

#[tokio::test]
async fn secrets_are_read() {
    let host = Scripted::new(secret);
    let result = host
        .returns(
            "const client = Toolbelt.SecretClient({ cache: { ttl: 1 } });
             return [await client.readSecret('token'), await new SecretClient().readSecret('x', { useCache: false, timeout: 50 })];",
        )
        .await;
    assert_eq!(
        result,
        json!([{"key": "token", "value": "value of token ä"}, {"key": "x", "value": "value of x ä"}])
    );
    let expected = |key: &str, use_cache, millis| SecretRequest {
        key: key.to_owned(),
        use_cache,
        timeout: Duration::from_millis(millis),
    };
    assert_eq!(host.secrets(), [expected("token", true, 5000), expected("x", false, 50)]);
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_has_the_hosted_products_code() {
    let host = Scripted::new(secret);
    let result = host
        .returns(
            "const codes = [];
             for (const key of ['missing', 'broken', 'late', 'bad key']) {
               await SecretClient().readSecret(key).catch((error) => codes.push(error.code, error.message));
             }
             return [codes, codes[0] === ErrorCodes.Secret.NotFound];",
        )
        .await;
    let codes = [
        ("secret.not-found", "SECRET_NOT_FOUND"),
        ("secret.op-failed", "SECRETS_UNAVAILABLE"),
        ("secret.op-timed-out", "SECRET_TIMED_OUT"),
        ("secret.invalid-format", "SECRET_KEY_INVALID"),
    ];
    let expected: Vec<_> = codes
        .iter()
        .flat_map(|(code, reason)| [format!("com.liveperson.faas.{code}"), format!("because of {reason}")])
        .collect();
    assert_eq!(result, json!([expected, true]));
}

#[tokio::test]
async fn nothing_is_asked_for_at_top_level() {
    for (what, code) in [
        ("SecretClient.readSecret", "Toolbelt.SecretClient().readSecret('token')"),
        ("HTTPClient", "Toolbelt.HTTPClient()('https://crm.example/')"),
        ("HTTPClient", "Toolbelt.HTTPClient.get('https://crm.example/')"),
        ("LpClient", "Toolbelt.LpClient()('msgHist', '/')"),
        ("OrchestratorClient.invoke", "Toolbelt.OrchestratorClient().invoke([])"),
        ("ConversationUtil.getConversationById", "Toolbelt.ConversationUtil().getConversationById('c')"),
    ] {
        let source =
            format!("const {{ Toolbelt }} = require('lp-faas-toolbelt');\n{code};\nfunction lambda() {{}}");
        match refusal(&source).await {
            PrepareError::ForbiddenAtTopLevel { what: found, line: 2, .. } => assert_eq!(found, what),
            other => panic!("{code}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_is_not_offered_says_so() {
    let host = Scripted::new(|_| None);
    let result = host
        .returns(
            "const messages = [];
             for (const name of ['SDEUtil', 'GDPRUtil', 'ContextServiceClient', 'SFClient', 'MTLSClient', 'LPMtlsClient', 'CsdsClient']) {
               try { Toolbelt[name]('key') } catch (error) { messages.push(error) }
             }
             try { SecretClient().updateSecret({}) } catch (error) { messages.push(error) }
             return messages.map(caught);",
        )
        .await;
    let errors = result.as_array().unwrap();
    assert_eq!(errors.len(), 8, "{result}");
    for error in errors {
        assert_eq!(error["code"], "com.liveperson.faas.toolbelt.not-offered");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("chatfn does not offer ") && message.contains(": "), "{message}");
    }
}

/// A platform at lp.example whose tokens are replaced when they are refused.
fn platform(op: &HostOp) -> Option<Result<OpResult, OpError>> {
    match op {
        HostOp::LocateService(service) if service == "nowhere" => Some(refused("SERVICE_URL_NOT_SET")),
        HostOp::LocateService(service) => Some(Ok(OpResult::Service(ServiceLocation {
            url: format!("https://{service}.lp.example/base"),
            account: "acme".to_owned(),
        }))),
        HostOp::ReadSecret(SecretRequest { key, use_cache, .. }) => Some(match key.as_str() {
            "key" if *use_cache => Ok(OpResult::Secret(SecretText("old".to_owned()))),
            "key" => Ok(OpResult::Secret(SecretText("new".to_owned()))),
            "odd" => Ok(OpResult::Secret(SecretText("two words".to_owned()))),
            _ => refused("SECRET_NOT_FOUND"),
        }),
        HostOp::Fetch(request) if header(request, "authorization") == Some("Bearer old") => {
            Some(Ok(OpResult::Fetch(response(401, "{}"))))
        }
        HostOp::Fetch(request) if request.url.contains("/search") => {
            let asked: Value = serde_json::from_slice(request.body.as_deref().unwrap()).unwrap();
            Some(Ok(OpResult::Fetch(match asked["conversationId"].as_str().unwrap() {
                "none" => response(200, r#"{"conversationHistoryRecords":[]}"#),
                "odd" => response(200, "no JSON"),
                _ => response(200, json!({"conversationHistoryRecords": [{"asked": asked}]}).to_string()),
            })))
        }
        HostOp::Fetch(_) => Some(Ok(OpResult::Fetch(response(200, "{}")))),
        HostOp::InvokeFunction(_) => None,
    }
}

#[tokio::test]
async fn lp_client_finds_the_service_and_renews_the_token() {
    let host = Scripted::new(platform);
    let result = host
        .returns(
            "const client = Toolbelt.LpClient();
             const plain = await client('accountConfigReadOnly', '/api/x?v=1', { headers: { 'X-A': '1' } });
             const renewed = await new LpClient()('msgHist', 'api/y', { method: 'POST', body: 'b', appKeySecretName: 'key' });
             const errors = [];
             await client('nowhere', '/').catch((error) => errors.push(caught(error)));
             await client('msgHist', '/', { appKeySecretName: 'missing' }).catch((error) => errors.push(caught(error)));
             await client('msgHist', '/', { appKeySecretName: 'odd' }).catch((error) => errors.push(caught(error)));
             return [plain.status, renewed.status, errors.map((error) => error.code), errors.map((error) => error.message)];",
        )
        .await;
    assert_eq!((&result[0], &result[1]), (&json!(200), &json!(200)));
    assert_eq!(
        result[2],
        json!([
            "com.liveperson.faas.csds.op-failed",
            "com.liveperson.faas.lp-client.get-credentials-failure",
            "com.liveperson.faas.lp-client.credentials-wrong-format",
        ])
    );
    assert!(result[3].to_string().contains("the secret missing: because of SECRET_NOT_FOUND"), "{result}");
    assert!(!result[3].to_string().contains("two words"), "{result}");

    let [plain, old, new] = &host.requests()[..] else { panic!("{:?}", host.requests()) };
    assert_eq!(plain.url, "https://accountconfigreadonly.lp.example/base/api/x?v=1");
    assert_eq!((header(plain, "x-a"), header(plain, "authorization")), (Some("1"), None));
    assert_eq!(header(plain, "x-request-id").unwrap().len(), 36);
    assert_eq!((&*new.method, &*new.url), ("POST", "https://msghist.lp.example/base/api/y"));
    assert_eq!(
        (header(old, "authorization"), header(new, "authorization")),
        (Some("Bearer old"), Some("Bearer new"))
    );
    assert_eq!(header(old, "x-request-id"), header(new, "x-request-id"), "one call, two attempts");
    assert_eq!(new.body.as_deref(), Some(&b"b"[..]));
}

#[tokio::test]
async fn conversations_are_fetched() {
    let host = Scripted::new(platform);
    let result = host
        .returns(
            "const util = Toolbelt.ConversationUtil();
             const plain = await util.getConversationById('c-1', ['sdes']);
             const keyed = await new ConversationUtil({ appKeySecretName: 'key' }).getConversationById('c-2');
             const codes = [];
             for (const id of ['none', 'odd']) await util.getConversationById(id).catch((error) => codes.push(error.code));
             return [plain.conversationHistoryRecords[0].asked, keyed.conversationHistoryRecords[0].asked, codes];",
        )
        .await;
    assert_eq!(
        result,
        json!([
            {"conversationId": "c-1", "contentToRetrieve": ["sdes"]},
            {"conversationId": "c-2"},
            [
                "com.liveperson.faas.conversation-util.conversation.not-found",
                "com.liveperson.faas.conversation-util.unexpected-response",
            ],
        ])
    );
    let first = &host.requests()[0];
    assert!(
        first.url.contains("/base/messaging_history/api/account/acme/conversations/conversation/search?"),
        "{}",
        first.url
    );
    assert_eq!(header(first, "authorization"), None, "the account has no default key");
}

#[tokio::test]
async fn conversations_are_scanned() {
    let host = Scripted::new(|_| None);
    let result = host
        .returns(
            "const records = [
               { type: 'TEXT_PLAIN', messageData: { msg: { text: 'Will we use Keywords (here)?' } }, timeL: 1, sentBy: 'Consumer' },
               { type: 'HOSTED_FILE', messageData: { file: { caption: 'awesome picture' } }, timeL: 2, sentBy: 'Agent' },
               { type: 'RICH_CONTENT', messageData: { richContent: 'keyword' }, timeL: 3, sentBy: 'Agent' },
             ];
             const conversation = { conversationHistoryRecords: [{ messageRecords: records }] };
             const { scanConversationForKeywords: scan } = ConversationUtil();
             let code;
             try { scan({}, ['x']) } catch (error) { code = error.code }
             return [scan(conversation, ['keyword', 'AWESOME', '(here)', 'none']), code];",
        )
        .await;
    let first = |tag| json!({"message": "Will we use Keywords (here)?", "sentTimestamp": 1, "sentBy": "Consumer", "tag": tag});
    assert_eq!(
        result,
        json!([
            [
                first("keywordRef:keyword"),
                {"message": "awesome picture", "sentTimestamp": 2, "sentBy": "Agent", "tag": "keywordRef:AWESOME"},
                first("keywordRef:(here)"),
            ],
            "com.liveperson.faas.conversation-util-general",
        ])
    );
}

fn failed(status: u16, name: &str, message: &str) -> Option<Result<OpResult, OpError>> {
    let failure =
        FunctionFailure { status, reason: "THROWN", name: name.to_owned(), message: message.to_owned() };
    Some(Ok(OpResult::Function(FunctionOutcome::Failed(failure))))
}

/// Functions by name: `chat.echo` returns its payload, `chat.throws` throws, `chat.busy` has no place, and others hang.
fn functions(op: &HostOp) -> Option<Result<OpResult, OpError>> {
    let HostOp::InvokeFunction(request) = op else { return None };
    match request.function.as_str() {
        "chat.echo" => {
            let json = String::from_utf8(request.payload_json.to_vec()).unwrap();
            Some(Ok(OpResult::Function(FunctionOutcome::Returned { json })))
        }
        "chat.throws" => failed(901, "RangeError", "no such queue"),
        "chat.busy" => failed(429, "", "no place"),
        _ => None,
    }
}

#[tokio::test]
async fn lone_surrogates_are_replaced_on_the_way_to_the_host() {
    let host = Scripted::new(|op| secret(op).or_else(|| functions(op)));
    let body = r"await OrchestratorClient().invoke([{ uuid: 'chat.echo', payload: 1, headers: { 'x-\ud800': '\udfff, \\ud800' } }]);
        return (await SecretClient().readSecret('\ud800')).value";
    assert_eq!(host.returns(body).await, json!("value of \u{fffd} ä"));
    assert_eq!(
        host.functions()[0].headers,
        [("x-\u{fffd}".to_owned(), "\u{fffd}, \\ud800".to_owned())],
        "and nothing that only looks like one"
    );
}

#[tokio::test]
async fn functions_are_invoked_in_order() {
    let host = Scripted::new(functions);
    let result = host
        .returns(
            "const client = Toolbelt.OrchestratorClient();
             const texts = await client.invoke([
               { uuid: 'chat.echo', payload: { a: 'ä' }, headers: { 'x-a': 1 } },
               { uuid: 'chat.echo', payload: undefined },
             ]);
             const [parsed] = await new OrchestratorClient().invoke([{ uuid: 'chat.echo', payload: [1] }], 1000, { json: true });
             return [texts, parsed.body, await client.invoke([])];",
        )
        .await;
    let response = |body: &str| json!({"uuid": "chat.echo", "statusCode": 200, "headers": {"content-type": "application/json"}, "body": body});
    assert_eq!(result, json!([[response(r#"{"a":"ä"}"#), response("null")], [1], []]));
    let invoked = host.functions();
    assert_eq!(invoked[0].headers, [("x-a".to_owned(), "1".to_owned())]);
    assert_eq!(invoked.iter().map(|it| it.ordinal).collect::<Vec<_>>(), [0, 1, 2]);
    let timeouts: Vec<_> = invoked.iter().map(|it| it.timeout.as_millis()).collect();
    assert_eq!(timeouts, [12_500, 12_500, 1000], "they share the time");
}

#[tokio::test]
async fn a_function_that_fails_ends_the_rest_or_is_reported() {
    let host = Scripted::new(functions);
    let result = host
        .returns(
            "const client = OrchestratorClient();
             const both = [{ uuid: 'chat.throws', payload: {} }, { uuid: 'chat.echo', payload: 1 }];
             const thrown = await client.invoke(both).catch((error) => [error.code, error.statusCode, error.message]);
             const parallel = await client.invoke([{ uuid: 'chat.hangs', payload: {} }, ...both], 20000, { invokeParallel: true })
               .catch((error) => error.statusCode);
             const [failed, echoed] = await client.invoke(both, 20000, { errorStrategy: 'ContinueOnError' });
             const wrong = [];
             await client.invoke('chat.end').catch((error) => wrong.push(error.code));
             await client.invoke([{ uuid: 'chat.echo' }], 1000, { errorStrategy: 'maybe' }).catch((error) => wrong.push(error.message));
             return { thrown, parallel, failed, echoed: echoed.body, wrong };",
        )
        .await;
    let code = "com.liveperson.faas.orchestrator-fn.invoke.status-code-error";
    let message = "chat.throws failed with 901: RangeError: no such queue";
    assert_eq!(
        result,
        json!({
            "thrown": [code, 901, message],
            "parallel": 901,
            "failed": {
                "uuid": "chat.throws", "statusCode": 901, "headers": {},
                "body": {"code": "THROWN", "message": "RangeError: no such queue"},
                "error": {"code": code, "message": message},
            },
            "echoed": "1",
            "wrong": ["com.liveperson.faas.orchestrator-fn-general", "errorStrategy must be one of ExitOnError, ContinueOnError"],
        })
    );
    assert_eq!(host.functions().len(), 1 + 3 + 2, "the first failure ends a sequence");
}

#[tokio::test]
async fn retries_keep_the_number_of_the_invocation() {
    let host = Scripted::new(functions);
    let result = host
        .returns(
            "const client = OrchestratorClient();
             const statuses = [];
             const invoke = (more) => client.invoke([{ uuid: 'chat.busy', payload: {}, ...more }])
               .catch((error) => statuses.push(error.statusCode));
             await invoke({});
             await invoke({ retries: 1 });
             await invoke({ retryFunction: (status) => { statuses.push(status); return false } });
             return statuses;",
        )
        .await;
    assert_eq!(result, json!([429, 429, 429, 429]));
    let ordinals: Vec<_> = host.functions().iter().map(|it| it.ordinal).collect();
    assert_eq!(ordinals, [0, 0, 0, 1, 2]);
}

#[tokio::test]
async fn the_deadline_of_invocations_ends_them() {
    let host = Scripted::new(functions);
    let result = host
        .returns(
            "return OrchestratorClient().invoke([{ uuid: 'chat.hangs', payload: {} }], 20, { timeout: 5000 }).catch(caught);",
        )
        .await;
    assert_eq!(result["code"], "com.liveperson.faas.orchestrator-fn.invoke.timeout");
    assert_eq!(host.functions()[0].timeout.as_millis(), 20, "never longer than the deadline");
}

#[tokio::test]
async fn an_uncaught_failure_has_the_authors_position() {
    let host: Arc<dyn Host> = Scripted::new(|_| None);
    let source = "const { Toolbelt } = require('lp-faas-toolbelt');\nasync function lambda() {\n  Toolbelt.SFClient();\n}";
    let report = run(source, call_of("null", PATIENCE, host)).await;
    let failure = failure(&report);
    assert_eq!((failure.kind, failure.name.as_str()), (FailureKind::Thrown, "ToolBeltError"));
    assert!(failure.stack.contains("lambda (lambda.js:3:"), "{}", failure.stack);
    assert!(!failure.stack.contains("chatfn:"), "{}", failure.stack);
}
