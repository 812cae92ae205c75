-- The feed model. `position` is the log position of the last event that changed a row; every list is sorted by the
-- position of what it lists. There are no foreign keys: events may refer to what is not known yet. Rows that change all
-- the time leave room on their pages, so that a change touches no index.

-- Profiles. Without a username: an event came before the registration. Without one in lower case, but with one: erased,
-- and found by nobody. Empty text stands for none.
CREATE TABLE people (
    id             uuid PRIMARY KEY,
    username       text,
    name           text,
    bio            text,
    avatar         text,
    username_lower text COLLATE "C",
    name_lower     text COLLATE "C",
    created_at     bigint,
    position       bigint NOT NULL
);
CREATE INDEX people_by_username ON people (username_lower, id) WHERE username_lower IS NOT NULL;
CREATE INDEX people_by_name ON people (name_lower, username_lower) WHERE username_lower IS NOT NULL;

-- Who is erased: what comes of theirs later shows tombstones, too.
CREATE TABLE erased (
    user_id  uuid PRIMARY KEY,
    position bigint NOT NULL
);

-- The counts of a profile. Its row is also the lock of the person as an author; one that no event touched yet has
-- position 0. `merged`: so many follow this author that their posts are merged into feeds when they are read.
CREATE TABLE tallies (
    user_id   uuid PRIMARY KEY,
    followers bigint NOT NULL DEFAULT 0,
    following bigint NOT NULL DEFAULT 0,
    posts     bigint NOT NULL DEFAULT 0,
    merged    boolean NOT NULL DEFAULT false,
    position  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 60);

-- Follows, ended ones too. `since` is the position of the event that began the present one; null when it has ended.
CREATE TABLE follows (
    follower_id uuid NOT NULL,
    followed_id uuid NOT NULL,
    since       bigint,
    followed_at bigint,
    position    bigint NOT NULL,
    PRIMARY KEY (follower_id, followed_id)
);
CREATE INDEX follows_by_followed ON follows (followed_id, since) INCLUDE (follower_id) WHERE since IS NOT NULL;

-- The content of posts that are there, keyed by the position of their creation: appended in order, found from a timeline
-- in one step. Visibility: 0 public, 1 followers, 2 private.
CREATE TABLE posts (
    position   bigint PRIMARY KEY,
    id         uuid NOT NULL,
    author_id  uuid NOT NULL,
    username   text NOT NULL,
    content    text NOT NULL,
    visibility smallint NOT NULL,
    media      text,
    created_at bigint NOT NULL
);
CREATE INDEX posts_by_author ON posts (author_id, position);

-- What changes about a post: small rows, so that a like does not rewrite a text. `created` is 0 before the post itself is
-- known; a deleted post keeps its row as a tombstone.
CREATE TABLE post_states (
    id       uuid PRIMARY KEY,
    created  bigint NOT NULL,
    deleted  boolean NOT NULL,
    likes    bigint NOT NULL,
    comments bigint NOT NULL,
    position bigint NOT NULL
) WITH (fillfactor = 60);

CREATE TABLE likes (
    post_id  uuid NOT NULL,
    user_id  uuid NOT NULL,
    active   boolean NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (post_id, user_id)
);

-- Comments; a deleted one keeps its row, without its text, as a tombstone (`created` is null).
CREATE TABLE comments (
    post_id    uuid NOT NULL,
    id         uuid NOT NULL,
    created    bigint,
    user_id    uuid,
    username   text,
    comment    text,
    created_at bigint,
    position   bigint NOT NULL,
    PRIMARY KEY (post_id, id)
);
CREATE INDEX comments_by_user ON comments (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX comments_in_order ON comments (post_id, created) WHERE created IS NOT NULL;

-- Home timelines: every post above the person's horizon by somebody they follow whose posts are fanned out. What stands
-- at or below the horizon waits to be cleared away and counts for nothing.
CREATE TABLE timeline (
    user_id  uuid NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (user_id, position)
);

-- Where a timeline ends: what stands at or below is read from the authors. No row: it goes all the way down.
CREATE TABLE horizons (
    user_id  uuid PRIMARY KEY,
    position bigint NOT NULL
);

-- Who follows which author whose posts are merged at read.
CREATE TABLE merged_authors (
    follower_id uuid NOT NULL,
    author_id   uuid NOT NULL,
    PRIMARY KEY (follower_id, author_id)
);
