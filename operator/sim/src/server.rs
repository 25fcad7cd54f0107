//! An API server in memory: the rules of Kubernetes' API as far as the operator, its devices and these stories use it.
//! What is not here: authentication, rights, validation by schema or CEL (but for the rules that fence, [`fence`]),
//! protobuf, discovery, and deletion of what an object owns.
//!
//! ```text
//!  HTTP ─► request.rs ─► what shall happen to it? (Circumstances) ─► store.rs ─► change.rs ─► managers.rs
//!            call as a value       │                                   │ log      pure          apply, owners
//!                                  └─ refused, late, unanswered        └─► watching.rs ─► streams
//! ```

pub mod change;
pub mod fence;
pub mod fields;
pub mod kinds;
pub mod managers;
pub mod refusal;
pub mod request;
pub mod schema;
pub mod select;
pub mod store;
pub mod watching;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use http::{Request, Response, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use self::change::{Target, Write};
use self::kinds::Kind;
use self::refusal::Refusal;
use self::request::{Call, Verb};
use self::store::{Listed, Store, Written};

/// The largest body that is read, as etcd has it.
const LARGEST: usize = 3 << 19;

/// What lies around the server: the time, and what goes wrong on purpose.
pub trait Circumstances: Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> Timestamp;

    /// What shall happen to a call that just came in.
    fn fate(&self, _call: &Call) -> Fate {
        Fate::default()
    }

    /// How long news waits before this watch is told.
    fn lag(&self, _call: &Call) -> Duration {
        Duration::ZERO
    }

    /// Of which version at most this watch is told for now.
    fn shows(&self, _call: &Call) -> u64 {
        u64::MAX
    }

    /// This watch was told of all up to this version, or began there.
    fn told(&self, _call: &Call, _version: u64) {}

    /// By how many changes of its kind this list is behind. None may be that asks for what is there now; one that asks for any moment
    /// (`resourceVersion=0`) is answered out of a cache that follows what is stored at its own pace.
    fn behind(&self, _call: &Call) -> usize {
        0
    }

    /// Is this watch told of its next event? Else it ends, and can go on from nowhere: a list must follow.
    fn tells(&self, _call: &Call) -> bool {
        true
    }

    /// A call was carried out; `result` is what is about to be answered.
    fn done(&self, _call: &Call, _result: Result<Option<&Written>, &Refusal>) {}
}

/// What happens to a call.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    /// It is looked at only so much later.
    pub before: Duration,
    /// It is not carried out, and answered so.
    pub refuse: Option<Refusal>,
    /// It is answered only so much after it was carried out.
    pub after: Duration,
    /// It is carried out and never answered.
    pub unanswered: bool,
}

/// The server: its store, which outlives it, and what lies around it.
#[derive(Clone)]
pub struct Server {
    /// What it holds.
    pub store: Arc<Store>,
    kinds: Arc<Vec<Arc<Kind>>>,
    around: Arc<dyn Circumstances>,
}

impl Server {
    /// A server of this store.
    ///
    /// # Errors
    /// When this project's schemas cannot be derived.
    pub fn new(store: Arc<Store>, around: Arc<dyn Circumstances>) -> Result<Self, serde_json::Error> {
        let kinds = kinds::all()?.into_iter().map(Arc::new).collect();
        let server = Self { store, kinds: Arc::new(kinds), around };
        if let Some(namespaces) = server.kind("namespaces") {
            let now = server.around.now().to_string();
            let target = Target {
                kind: &namespaces,
                namespace: None,
                name: "default",
                in_status: false,
                manager: "kube-apiserver",
                strict: false,
                now: &now,
                uid: "",
            };
            // A second server of one store finds it there.
            let _there = server.store.write(&target, &Write::Create(json!({})));
        }
        Ok(server)
    }

    /// The kind of this plural name.
    pub fn kind(&self, plural: &str) -> Option<Arc<Kind>> {
        self.kinds.iter().find(|kind| kind.plural == plural).cloned()
    }

    /// The time of day, by its own clock.
    pub fn now(&self) -> Timestamp {
        self.around.now()
    }

    /// Serves HTTP.
    pub fn router(self) -> Router {
        Router::new().fallback(handle).with_state(self)
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, Refusal> {
        if request.uri().path() == "/version" {
            return Ok(self.json(StatusCode::OK, &json!({ "major": "1", "minor": "37" })));
        }
        let (head, body) = request.into_parts();
        let call = request::read(&head, &self.kinds)?;
        let body = to_bytes(body, LARGEST).await.map_err(|error| Refusal::bad(error.to_string()))?;
        let fate = self.around.fate(&call);
        tokio::time::sleep(fate.before).await;
        let outcome = match fate.refuse {
            Some(refusal) => Err(refusal),
            None => self.carry_out(&call, &body),
        };
        if outcome.is_err() || !call.verb.is_write() {
            self.around.done(&call, outcome.as_ref().map(|_| None));
        }
        tokio::time::sleep(fate.after).await;
        if fate.unanswered {
            std::future::pending::<()>().await;
        }
        outcome
    }

    fn carry_out(&self, call: &Call, body: &[u8]) -> Result<Response<Body>, Refusal> {
        match &call.verb {
            Verb::Get => {
                let place = call.place();
                let object = self.store.get(&place);
                let object = object.ok_or_else(|| Refusal::not_found(&call.kind.named(&place.2)))?;
                Ok(self.json(StatusCode::OK, &object))
            }
            Verb::List { limit, token, of } => {
                let (version, after) = match token {
                    Some(token) => self.store.goes_on(token).map(|(version, key)| (version, Some(key)))?,
                    None => (self.store.moment(&call.kind, *of, self.around.behind(call))?, None),
                };
                let listed = self.store.list(call, version, after, *limit);
                Ok(self.json(StatusCode::OK, &list(&call.kind, &listed)))
            }
            Verb::Watch(watch) => {
                let events = watching::events(self.store.clone(), self.around.clone(), call, *watch);
                let answer = self.head(StatusCode::OK).body(Body::from_stream(events));
                Ok(answer.unwrap_or_default())
            }
            Verb::Write(_) => self.write(call, body),
        }
    }

    fn write(&self, call: &Call, body: &[u8]) -> Result<Response<Body>, Refusal> {
        let write = call.write(body)?;
        let (now, name) = (self.around.now().to_string(), call.name_of(&write, &self.store)?);
        let target = Target {
            kind: &call.kind,
            namespace: call.namespace.as_deref(),
            name: &name,
            in_status: call.in_status,
            manager: &call.manager,
            strict: call.strict,
            now: &now,
            uid: "",
        };
        let written = self.store.write(&target, &write)?;
        self.around.done(call, Ok(Some(&written)));
        if written.removed && matches!(write, Write::Delete(_)) {
            let details = json!({ "name": name, "uid": written.object["metadata"]["uid"] });
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
            });
            return Ok(self.json(StatusCode::OK, &status));
        }
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        Ok(self.json(code, &written.object))
    }

    fn head(&self, code: StatusCode) -> http::response::Builder {
        // RFC 9110 §5.6.7.
        let date = self.around.now().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        Response::builder()
            .status(code)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::DATE, date)
    }

    fn json(&self, code: StatusCode, value: &Value) -> Response<Body> {
        self.head(code).body(Body::from(value.to_string())).unwrap_or_default()
    }
}

async fn handle(State(server): State<Server>, request: Request<Body>) -> Response<Body> {
    match server.answer(request).await {
        Ok(answer) => answer,
        Err(refusal) => {
            let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            server.json(code, &refusal.status())
        }
    }
}

fn list(kind: &Kind, listed: &Listed) -> Value {
    let mut metadata = json!({ "resourceVersion": listed.version.to_string() });
    if let Some(next) = &listed.next {
        metadata["continue"] = json!(next);
        metadata["remainingItemCount"] = json!(listed.remaining);
    }
    let items: Vec<&Value> = listed.items.iter().map(AsRef::as_ref).collect();
    json!({
        "kind": format!("{}List", kind.kind),
        "apiVersion": kind.api_version(),
        "metadata": metadata,
        "items": items,
    })
}
