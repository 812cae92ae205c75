//! Projectors that hang, as a machine does that swaps or is paused: others take over what they had, and when they wake they
//! do nothing that was done already.

use futures::future::join_all;
use socialhub_tests::support::{Client, Process, Profile, Server, eventually, free_port};

use crate::full_stack::{everything_moves, load::Load};

/// Not the usual three: how many there are is a setting.
const PARTITIONS: &str = "5";

/// A process beside others on the same servers.
pub(crate) fn start(site: &Server, arguments: &[&str]) -> Process {
    let mut command = site.prepare_command(arguments);
    command.env("LOG", "warn");
    Process::start(command, free_port())
}

/// The services but chat, in one process at the site's address.
pub(crate) fn start_services(site: &Server) -> Process {
    let listen = format!("127.0.0.1:{}", site.port());
    let services = ["auth", "users", "posts", "notifications", "feed"];
    let arguments = [&["service"], &services[..], &["--listen", &listen]].concat();
    start(site, &arguments)
}

/// The projectors of one model, a process each.
struct Group {
    model: &'static str,
    members: Vec<Process>,
}

impl Group {
    fn start(site: &Server, model: &'static str, members: usize) -> Self {
        let member = |_| start(site, &["project", model]);
        Self {
            model,
            members: (0..members).map(member).collect(),
        }
    }

    /// How many events a member has handled.
    async fn handled(&self, member: usize) -> f64 {
        let name = format!(
            "socialhub_projection_events_total{{model=\"{}\"}}",
            self.model
        );
        self.members[member].metric(&name).await
    }

    /// Waits until a member handles events: partitions are its.
    async fn works(&self, member: usize) {
        let before = self.handled(member).await;
        let what = format!("projector {member} of {} handles events", self.model);
        eventually(&what, async || {
            (self.handled(member).await > before).then_some(())
        })
        .await;
    }
}

/// One of each group.
async fn all_work(groups: &[Group], member: usize) {
    join_all(groups.iter().map(|group| group.works(member))).await;
}

fn signal_all(groups: &[Group], member: usize, signal: &str) {
    for group in groups {
        group.members[member].signal(signal);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_take_over_and_nothing_is_done_twice_or_not_at_all() {
    let mut environment = Profile::Distributed.environment().await;
    let settings = [("KAFKA_PARTITIONS", PARTITIONS), ("RATE_LIMITS", "off")];
    environment.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let site = Server::prepare(&[], environment);
    site.succeed(&["migrate"]).await;
    let _services = start_services(&site);
    let relay = start(&site, &["relay"]);
    let groups = [
        Group::start(&site, "feed", 3),
        Group::start(&site, "notifications", 2),
        Group::start(&site, "counters", 2),
    ];
    let client = site.client();
    eventually("the services are ready", || async {
        let answer = client.try_get("/readyz").await?;
        (answer.status == 200).then_some(())
    })
    .await;
    let load = Load::start(&client).await;
    for member in 0..2 {
        all_work(&groups, member).await;
        signal_all(&groups, member, "STOP");
        // Into all partitions, so that none can be left out of what follows.
        load.goes_on(24).await;
        everything_moves(&client.sign_up("meanwhile").await).await;
        signal_all(&groups, member, "CONT");
        // What it was about to write is not its to write any more; it shares the work again.
        all_work(&groups, member).await;
    }
    everything_moves(&client.sign_up("afterwards").await).await;
    let done = load.end().await;
    site.caught_up().await;
    let status = site.status().await;
    for model in status["models"].as_array().unwrap() {
        for generation in model["generations"].as_array().unwrap() {
            assert_eq!(generation["parked"], 0, "{model}");
        }
    }
    site.verify_all().await;
    done.check().await;
    drop(groups);
    let head = status["head"].as_f64().unwrap();
    a_model_without_projectors_is_seen(&relay, &client, head).await;
}

/// Whoever is gone tells nobody that they are: the relay's metrics do. And nobody is thrown back to before `head`, which they
/// had all come to, by news in a partition that was quiet since long before.
async fn a_model_without_projectors_is_seen(relay: &Process, client: &Client, head: f64) {
    let author = client.sign_up("nobody").await;
    author.write_post("unseen", "public").await;
    for model in ["feed", "notifications", "counters"] {
        eventually("the relay says that nobody writes it", async || {
            let mut figures = [0.0; 4];
            for (nth, name) in ["position", "has_writer", "lag_events", "lag_seconds"]
                .iter()
                .enumerate()
            {
                let labels = format!("{{model=\"{model}\",state=\"current\"}}");
                let name = format!("socialhub_generation_{name}{labels}");
                figures[nth] = relay.metric(&name).await;
            }
            // Shown when it never comes true.
            eprintln!("{model}: {figures:?}");
            let [position, writer, events, seconds] = figures;
            (position >= head && writer < 1.0 && events > 0.0 && seconds > 0.0).then_some(())
        })
        .await;
    }
}
