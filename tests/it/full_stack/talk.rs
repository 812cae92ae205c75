//! People who talk with each other through the gateway, whatever fails meanwhile (`tests/js/talk.js`).

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use socialhub_tests::support::{Client, client::fresh_name, eventually};

use crate::chat::{check, history, scripts};

/// How many there are: enough to be on more than one instance.
const TALKERS: usize = 4;

/// A message: its number in the room, and its id.
type Message = (u64, String);

/// A talk in a room.
pub struct Talk {
    room: String,
    talkers: Vec<Talker>,
}

struct Talker {
    person: Client,
    process: Mutex<Child>,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    /// What was shown, in its order.
    shown: Vec<Message>,
    /// What it said itself and was acknowledged.
    said: Vec<Message>,
}

impl Drop for Talker {
    fn drop(&mut self) {
        // It may have ended.
        let process = self.process.get_mut().unwrap();
        let _ = process.kill();
        let _ = process.wait();
    }
}

impl Talker {
    fn start(url: &str, person: Client, room: &str) -> Self {
        let mut process = Command::new("node")
            .args(["talk.js", url, &person.token, room])
            .current_dir(scripts())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let hearing = Arc::clone(&heard);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let words: Vec<&str> = line.split(' ').collect();
                let message = (words[1].parse().unwrap(), words[2].to_owned());
                let mut heard = hearing.lock().unwrap();
                match words[0] {
                    "shown" => heard.shown.push(message),
                    _ => heard.said.push(message),
                }
            }
        });
        Self {
            person,
            process: Mutex::new(process),
            heard,
        }
    }

    fn has_said(&self) -> usize {
        let ended = self.process.lock().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "a talker has given up: {ended:?}");
        self.heard.lock().unwrap().said.len()
    }
}

impl Talk {
    /// Starts it, in a room of its own, and waits until everybody has said something.
    pub async fn start(url: &str, client: &Client) -> Self {
        let room = fresh_name("talk");
        let mut talkers = Vec::new();
        for _ in 0..TALKERS {
            let person = client.sign_up("talker").await;
            talkers.push(Talker::start(url, person, &room));
        }
        let talk = Self { room, talkers };
        talk.goes_on().await;
        talk
    }

    /// Waits until everybody has said more.
    #[track_caller]
    pub fn goes_on(&self) -> impl Future<Output = ()> + '_ {
        let before: Vec<usize> = self.talkers.iter().map(Talker::has_said).collect();
        eventually("everybody goes on talking", move || {
            let mut talkers = self.talkers.iter().zip(&before);
            let all = talkers.all(|(talker, before)| talker.has_said() >= before + 3);
            async move { all.then_some(()) }
        })
    }

    /// Ends it: what was acknowledged is in the room's history, and that is what everybody was shown, each message once and
    /// in its place.
    pub async fn end(mut self) {
        let said = self.talkers.iter().map(Talker::has_said).sum::<usize>();
        for talker in &mut self.talkers {
            drop(talker.process.get_mut().unwrap().stdin.take());
        }
        let all = eventually("everybody was shown everything", || async {
            let all = history(&self.talkers[0].person, &self.room).await;
            let last = all.last()?.0;
            let mut talkers = self.talkers.iter();
            let came = |talker: &Talker| talker.heard.lock().unwrap().shown.len() as u64 >= last;
            talkers.all(came).then_some(all)
        })
        .await;
        assert!(all.len() >= said, "{} of {said}", all.len());
        for talker in &self.talkers {
            let heard = talker.heard.lock().unwrap();
            let said = heard.said.iter().map(|(seq, id)| (id.clone(), *seq));
            check(&said.collect(), &all);
            assert_eq!(
                heard.shown, all,
                "what {} was shown",
                talker.person.username
            );
        }
    }
}
