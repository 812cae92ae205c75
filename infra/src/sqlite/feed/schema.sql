-- The feed model. Ids are 16 bytes. `position` is the log position of the last event that changed a row; every list is
-- sorted by the position of what it lists. There are no foreign keys: events may refer to what is not known yet.

-- Profiles. Without a username: an event came before the registration. Without one in lower case, but with one: erased,
-- and found by nobody.
CREATE TABLE IF NOT EXISTS people (
    id             BLOB PRIMARY KEY,
    username       TEXT,
    name           TEXT,
    bio            TEXT,
    avatar         TEXT,
    username_lower TEXT,
    name_lower     TEXT,
    created_at     INTEGER NOT NULL DEFAULT 0,
    position       INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS people_by_username ON people (username_lower) WHERE username_lower IS NOT NULL;
CREATE INDEX IF NOT EXISTS people_by_name ON people (name_lower, username_lower) WHERE username_lower IS NOT NULL;

-- Who is erased: what comes of theirs later shows tombstones, too.
CREATE TABLE IF NOT EXISTS erased (
    user_id  BLOB PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;

-- The counts of a profile, apart from its texts because they change all the time. `merged`: this author has so many
-- followers that their posts are merged into feeds when they are read, not fanned out.
CREATE TABLE IF NOT EXISTS tallies (
    user_id   BLOB PRIMARY KEY,
    followers INTEGER NOT NULL,
    following INTEGER NOT NULL,
    posts     INTEGER NOT NULL,
    merged    INTEGER NOT NULL,
    position  INTEGER NOT NULL
) WITHOUT ROWID;

-- Follows, ended ones too. `since` is the position of the event that began the present one; null when it has ended.
-- Whom a person follows is read by the primary key: those are few enough to be sorted when they are listed.
CREATE TABLE IF NOT EXISTS follows (
    follower_id BLOB NOT NULL,
    followed_id BLOB NOT NULL,
    since       INTEGER,
    followed_at INTEGER,
    position    INTEGER NOT NULL,
    PRIMARY KEY (follower_id, followed_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS follows_by_followed ON follows (followed_id, since) WHERE since IS NOT NULL;

-- The content of posts that are there, keyed by the position of their creation: appended in order, found from a
-- timeline in one step. Visibility: 0 public, 1 followers, 2 private.
CREATE TABLE IF NOT EXISTS posts (
    position   INTEGER PRIMARY KEY,
    id         BLOB NOT NULL,
    author_id  BLOB NOT NULL,
    username   TEXT NOT NULL,
    content    TEXT NOT NULL,
    visibility INTEGER NOT NULL,
    media      TEXT,
    created_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS posts_by_author ON posts (author_id, visibility);

-- What changes about a post: small rows, so that a like does not rewrite a text. `created` is 0 before the post itself
-- is known; a deleted post keeps its row as a tombstone.
CREATE TABLE IF NOT EXISTS post_states (
    id       BLOB PRIMARY KEY,
    created  INTEGER NOT NULL,
    deleted  INTEGER NOT NULL,
    likes    INTEGER NOT NULL,
    comments INTEGER NOT NULL,
    position INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS likes (
    post_id  BLOB NOT NULL,
    user_id  BLOB NOT NULL,
    active   INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (post_id, user_id)
) WITHOUT ROWID;

-- Comments; a deleted one keeps its row, without its text, as a tombstone (`created` is null).
CREATE TABLE IF NOT EXISTS comments (
    post_id    BLOB NOT NULL,
    id         BLOB NOT NULL,
    created    INTEGER,
    user_id    BLOB,
    username   TEXT,
    comment    TEXT,
    created_at INTEGER,
    position   INTEGER NOT NULL,
    PRIMARY KEY (post_id, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS comments_by_user ON comments (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS comments_in_order ON comments (post_id, created) WHERE created IS NOT NULL;

-- Home timelines: every post above the person's horizon by somebody they follow whose posts are fanned out.
CREATE TABLE IF NOT EXISTS timeline (
    user_id  BLOB NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (user_id, position)
) WITHOUT ROWID;

-- Where a timeline ends: what stands at or below is read from the authors. No row: it goes all the way down.
CREATE TABLE IF NOT EXISTS horizons (
    user_id  BLOB PRIMARY KEY,
    position INTEGER NOT NULL
) WITHOUT ROWID;

-- Who follows which author whose posts are merged at read.
CREATE TABLE IF NOT EXISTS merged_authors (
    follower_id BLOB NOT NULL,
    author_id   BLOB NOT NULL,
    PRIMARY KEY (follower_id, author_id)
) WITHOUT ROWID;
