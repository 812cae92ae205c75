//! The Socket.IO side: who gets in, and what each event asks of the pipeline.
//!
//! A socket's handlers are called one after the other in its read loop, and the futures they return are spawned. So
//! everything that must keep its order happens before a handler returns, and the future it returns is ready.

use std::{
    future::{Ready, ready},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, middleware::from_fn_with_state};
use hyper::service::Service as _;
use serde_json::{Value as Json, value::RawValue};
use socialhub_domain::{Clock, IdGenerator};
use socketioxide::{
    ParserConfig, SocketIo,
    extract::{AckSender, SocketRef, TryData},
    handler::ConnectHandler,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    ack::{Ack, Refusal, Reply},
    admission::Admission,
    frame::{Full, Outlet},
    inbox::Inbox,
    limits::ChatLimits,
    outbox::Outbox,
    payload::{ConnectAuth, Fields},
    pipeline::{Command, Join, Pipeline, Send, Tools},
    ports::{ChatBus, ChatLog, PresenceStore, TokenCheck},
    rest::{RestState, rest_router},
    room_id::RoomId,
    session::{Session, Sessions, Verdict, answer, reply_later},
    transport::{Way, carry},
};

/// Where Socket.IO is served.
const PATH: &str = "/socket.io";
/// What joining costs of a socket's rate: it reads history.
const JOIN_COST: f64 = 5.0;
/// How long a client may stay connected without having named its token.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What the service is made of.
#[derive(Clone)]
pub struct ChatDeps {
    /// Where messages are kept.
    pub log: Arc<dyn ChatLog>,
    /// Who a token speaks for.
    pub tokens: Arc<dyn TokenCheck>,
    /// The other instances; [`crate::NoBus`] when there are none.
    pub bus: Arc<dyn ChatBus>,
    /// Who is on the other instances; [`crate::NoPresence`] when there are none.
    pub presence: Arc<dyn PresenceStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids of messages.
    pub ids: Arc<dyn IdGenerator>,
    /// What a gateway in front proves itself with: then it may say in `x-user-payload` who asks, when they brought no
    /// token.
    pub gateway_secret: Option<Arc<str>>,
    /// What a socket may ask for.
    pub limits: ChatLimits,
}

struct Context {
    queue: mpsc::Sender<Command>,
    admission: Admission,
    limits: ChatLimits,
    sessions: Sessions,
    closing: AtomicBool,
}

/// The running service. Cheap to clone.
#[derive(Clone)]
pub struct Chat {
    io: SocketIo,
    context: Arc<Context>,
    router: Router,
}

impl Chat {
    /// Starts the service: its pipeline and its sweeper run on the current runtime.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(deps: ChatDeps) -> Self {
        let (queue, commands) = mpsc::channel(deps.limits.queue);
        let ears = Inbox::open();
        deps.bus.attach(ears.inbox.clone());
        let tools = Tools {
            log: deps.log.clone(),
            bus: deps.bus,
            presence: deps.presence,
            clock: deps.clock,
            ids: deps.ids,
            queue: queue.clone(),
        };
        tokio::spawn(Pipeline::new(tools, ears).run(commands));
        let admission = Admission::new(deps.tokens, deps.gateway_secret);
        let context = Arc::new(Context {
            queue,
            admission: admission.clone(),
            limits: deps.limits,
            sessions: Sessions::default(),
            closing: AtomicBool::new(false),
        });
        tokio::spawn(sweep(Arc::downgrade(&context)));
        let (sockets, io) = socket_router(&context);
        let rest = rest_router(RestState {
            log: deps.log,
            admission,
        });
        Self {
            io,
            context,
            router: sockets.merge(rest),
        }
    }

    /// `/socket.io/` and the history over REST, to merge into the program's router. A layer that limits how long a
    /// request may take must not lie around it: a polling request waits for up to 25 s.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Sockets that are open.
    pub fn sockets(&self) -> usize {
        self.context.sessions.count()
    }

    /// Ends the service: refuses new events, finishes and acknowledges those taken, then closes the sockets, which get
    /// up to `patience` to take what is still on its way to them.
    pub async fn shutdown(&self, patience: Duration) {
        self.context.closing.store(true, Ordering::SeqCst);
        let (done, drained) = oneshot::channel();
        if self.context.queue.send(Command::Drain(done)).await.is_ok() {
            let _ = drained.await;
        }
        if tokio::time::timeout(patience, self.io.close())
            .await
            .is_err()
        {
            tracing::warn!("some chat sockets did not close in time");
        }
        let _ = self.context.queue.send(Command::Stop).await;
    }
}

/// Looks after the open sockets while the service lives.
async fn sweep(context: Weak<Context>) {
    let Some(every) = context.upgrade().map(|c| c.limits.recheck) else {
        return;
    };
    let mut tick = tokio::time::interval(every.max(Duration::from_millis(10)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(context) = context.upgrade() else {
            return;
        };
        context.sessions.sweep(&context.admission, &context.limits);
    }
}

fn socket_router(context: &Arc<Context>) -> (Router, SocketIo) {
    let limits = &context.limits;
    let payload = usize::try_from(limits.payload).unwrap_or(usize::MAX);
    let parser = ParserConfig::common()
        .max_incoming_binaries(8)
        .max_incoming_binary_buf_size(payload);
    let (service, io) = SocketIo::builder()
        .req_path(PATH)
        .with_parser(parser)
        .connect_timeout(CONNECT_TIMEOUT)
        .max_payload(limits.payload)
        .ws_max_message_size(payload)
        .ws_max_frame_size(payload)
        .max_buffer_size(limits.outbox)
        .build_svc();
    let gate = context.clone();
    let admission = move |socket: SocketRef, auth: TryData<ConnectAuth>| {
        ready(admit(&gate, &socket, auth.0.ok()))
    };
    io.ns("/", (|| ready(())).with(admission));
    let websockets = service.clone();
    let way = Way {
        outboxes: context.sessions.outboxes.clone(),
        accept: Arc::new(move |wire, request| {
            // It is ready at once: what it is asked here has been read before.
            drop(websockets.call((wire, request)));
        }),
    };
    let router = Router::new()
        .route_service(PATH, service.clone())
        .route_service("/socket.io/", service)
        .layer(from_fn_with_state(way, carry));
    (router, io)
}

/// Decides who gets in. What it says is the message of the client's `connect_error`.
///
/// The handlers are put in place here, before the client learns that it is connected: an event sent at once must find
/// them.
fn admit(
    context: &Arc<Context>,
    socket: &SocketRef,
    auth: Option<ConnectAuth>,
) -> Result<(), &'static str> {
    if context.closing.load(Ordering::SeqCst) {
        return Err("Service unavailable");
    }
    if context.sessions.count() >= context.limits.sockets {
        return Err("Too many connections");
    }
    let auth = auth.map(|auth| auth.token);
    let headers = &socket.req_parts().headers;
    let (user, proof) = context
        .admission
        .admit(auth.as_deref(), headers)
        .ok_or("Unauthorized")?;
    // Every connection gets one on its way here.
    let outbox = socket.req_parts().extensions.get::<Arc<Outbox>>();
    let outbox = outbox.cloned().ok_or("Service unavailable")?;
    // One who comes again on the same connection has a place already.
    outbox.vacate();
    let seat = context.sessions.people.seat(user.id, &context.limits);
    outbox.keep(seat.ok_or("Too many connections")?);
    let session = Arc::new(Session::new(user, proof, outbox, &context.limits));
    listen(context, socket, &session);
    context.sessions.add(socket.clone(), session);
    Ok(())
}

/// One event of one socket.
struct Event {
    context: Arc<Context>,
    session: Arc<Session>,
    socket: SocketRef,
    ack: AckSender,
}

/// Puts the handlers of a socket in place.
fn listen(context: &Arc<Context>, socket: &SocketRef, session: &Arc<Session>) {
    on(context, socket, session, "join_room", JOIN_COST, join_room);
    on(context, socket, session, "send_message", 1.0, send_message);
    on(context, socket, session, "leave_room", 1.0, leave_room);
    on(context, socket, session, "typing", 1.0, typing);
    let (ctx, own) = (context.clone(), session.clone());
    socket.on_fallback(move |socket: SocketRef, ack: AckSender| {
        let event = Event {
            context: ctx,
            session: own,
            socket,
            ack,
        };
        if let Some(event) = event.passing(1.0) {
            event.refuse(Refusal::unknown_event());
        }
        ready(())
    });
    let (ctx, own) = (context.clone(), session.clone());
    socket.on_disconnect(move |socket: SocketRef| {
        let rooms = ctx.sessions.remove(socket.id, &own);
        let gone = Command::Gone {
            socket: socket.id,
            rooms,
        };
        // It must not get lost, so it waits if the queue is full.
        async move {
            let _ = ctx.queue.send(gone).await;
        }
    });
}

type Handle = fn(Event, Fields) -> Result<(), (Event, Refusal)>;

fn on(
    context: &Arc<Context>,
    socket: &SocketRef,
    session: &Arc<Session>,
    name: &'static str,
    cost: f64,
    handle: Handle,
) {
    let (context, session) = (context.clone(), session.clone());
    let handler = move |socket: SocketRef, payload: TryData<Json>, ack: AckSender| -> Ready<()> {
        let event = Event {
            context,
            session,
            socket,
            ack,
        };
        event.handle(cost, payload.0.ok(), handle);
        ready(())
    };
    socket.on(name, handler);
}

impl Event {
    fn handle(self, cost: f64, payload: Option<Json>, handle: Handle) {
        let Some(event) = self.passing(cost) else {
            return;
        };
        let outcome = match Fields::of(payload) {
            Ok(fields) => handle(event, fields),
            Err(refusal) => Err((event, refusal)),
        };
        if let Err((event, refusal)) = outcome {
            event.refuse(refusal);
        }
    }

    /// The event, if the socket may ask for it; a flood ends here.
    fn passing(self, cost: f64) -> Option<Self> {
        self.session.meet(|| self.socket.connected());
        if self.context.closing.load(Ordering::Relaxed) {
            self.refuse(Refusal::busy());
            return None;
        }
        match self.session.admit(cost, &self.context.limits) {
            Verdict::Pass => return Some(self),
            Verdict::Refuse => self.refuse(Refusal::too_fast()),
            Verdict::Cut => {
                tracing::info!(user = %self.session.user.id, "a chat socket floods: disconnected");
                let (session, socket) = (self.session.clone(), self.socket.clone());
                self.refuse(Refusal::too_fast());
                session.sever(&socket);
            }
        }
        None
    }

    fn refuse(self, refusal: Refusal) {
        answer(
            &self.session,
            &self.socket,
            self.ack,
            &Ack::Refused(refusal),
        );
    }

    fn reply(self) -> Reply {
        reply_later(self.session, self.socket, self.ack)
    }
}

/// Queues what an event asks for, or answers that there is no room.
fn enqueue(queue: &mpsc::Sender<Command>, command: Command) {
    if let Err(error) = queue.try_send(command)
        && let Some(reply) = error.into_inner().into_reply()
    {
        reply(&Ack::Refused(Refusal::busy()));
    }
}

/// Ends a handler with a refusal when something of the payload is wrong.
macro_rules! check {
    ($event:ident, $checked:expr) => {
        match $checked {
            Ok(value) => value,
            Err(refusal) => return Err(($event, refusal)),
        }
    };
}

fn join_room(event: Event, mut fields: Fields) -> Result<(), (Event, Refusal)> {
    let room = check!(event, fields.room());
    let after = check!(event, fields.after());
    if !room.admits(event.session.user.id) {
        return Err((event, Refusal::not_admitted()));
    }
    let user = event.session.user.id;
    if !event.context.sessions.people.admit_history(user) {
        return Err((event, Refusal::too_fast()));
    }
    let stay = check!(event, event.session.enter(&room, &event.context.limits));
    let (context, session, socket) = (
        event.context.clone(),
        event.session.clone(),
        event.socket.clone(),
    );
    let (answer, own, entering) = (event.reply(), session.clone(), room.clone());
    let reply: Reply = Box::new(move |ack| {
        own.entered(&entering, stay, !matches!(ack, Ack::Refused(_)));
        answer(ack);
    });
    let join = Join {
        room,
        socket: socket.id,
        user: session.user.clone(),
        outlet: Arc::new(SocketOutlet { socket, session }),
        after,
        reply,
    };
    enqueue(&context.queue, Command::Join(join));
    Ok(())
}

/// The room of an event, which the socket must have joined.
fn joined_room(event: &Event, fields: &mut Fields) -> Result<RoomId, Refusal> {
    let room = fields.room()?;
    if event.session.is_in(&room) {
        Ok(room)
    } else {
        Err(Refusal::not_joined())
    }
}

fn send_message(event: Event, mut fields: Fields) -> Result<(), (Event, Refusal)> {
    let text = check!(event, fields.message());
    let client_id = check!(event, fields.client_id());
    let room = check!(event, joined_room(&event, &mut fields));
    let context = event.context.clone();
    let send = Send {
        room,
        socket: event.socket.id,
        user: event.session.user.clone(),
        text,
        client_id,
        reply: event.reply(),
    };
    enqueue(&context.queue, Command::Send(send));
    Ok(())
}

fn leave_room(event: Event, mut fields: Fields) -> Result<(), (Event, Refusal)> {
    let room = check!(event, joined_room(&event, &mut fields));
    let context = event.context.clone();
    // Only who has a place in the queue leaves: otherwise neither this nor the end of the socket would take it out.
    let Ok(place) = context.queue.try_reserve() else {
        return Err((event, Refusal::busy()));
    };
    event.session.exit(&room);
    place.send(Command::Leave {
        room,
        socket: event.socket.id,
        reply: event.reply(),
    });
    Ok(())
}

fn typing(event: Event, mut fields: Fields) -> Result<(), (Event, Refusal)> {
    let room = check!(event, joined_room(&event, &mut fields));
    let context = event.context.clone();
    let typing = Command::Typing {
        room,
        socket: event.socket.id,
        user: event.session.user.clone(),
        reply: event.reply(),
    };
    enqueue(&context.queue, typing);
    Ok(())
}

/// The way out to a Socket.IO socket.
struct SocketOutlet {
    socket: SocketRef,
    session: Arc<Session>,
}

impl Outlet for SocketOutlet {
    fn emit(&self, event: &'static str, body: &RawValue) -> Result<(), Full> {
        self.session
            .emit(body, |body| self.socket.emit(event, body))
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.session.has_room(bytes)
    }

    fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    fn end(&self) {
        self.session.sever(&self.socket);
    }
}
