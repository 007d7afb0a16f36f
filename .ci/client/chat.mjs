// Two people chat with matrix-js-sdk, each with a live /sync, and a third device reads what they wrote.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import * as sdk from "matrix-js-sdk";

const quiet = { trace() {}, debug() {}, info() {}, warn() {}, error() {}, getChild: () => quiet };
const password = "correct horse battery staple";
const backlog = 25; // messages to page back over
const page = 10;

// chat plays every step against the server at url and throws at the first that fails. bob is a user of the server at
// bobsURL, which is the same unless it is given. Each step has stepMs; log is told the name of each; routes is a Routes;
// owner is the account of the first start, if known.
export async function chat({ url, bobsURL = url, routes, stepMs, log, owner }) {
    return new Story(url, bobsURL, routes, owner).tell(steps, stepMs, log);
}

const steps = {
    "the server says its versions and how to log in": async (s) => {
        const anyone = s.anyone();
        assert.ok(await anyone.isVersionSupported("v1.1"));
        const { flows } = await anyone.loginFlows();
        assert.ok(flows.some((flow) => flow.type === "m.login.password"), "no password flow");
    },

    "the owner logs in with the printed password": async (s) => {
        if (s.owner) assert.equal((await s.logIn(s.owner.user, s.owner.password)).getUserId(), s.owner.user);
    },

    "both register, answering the server's question": register,

    "both log in and sync": async (s) => {
        s.alice = await s.live("alice");
        s.bob = await s.live("bob");
        for (const [name, client] of [["alice", s.alice], ["bob", s.bob]]) {
            assert.equal((await client.whoami()).user_id, s.ids[name]);
            assert.ok(await client.getCapabilities());
        }
    },

    "a profile is set and seen": async (s) => {
        await s.alice.setDisplayName("Alice");
        assert.equal((await s.bob.getProfileInfo(s.ids.alice)).displayname, "Alice");
        assert.equal((await s.bob.getProfileInfo(s.ids.alice, "displayname")).displayname, "Alice");
    },

    "alice creates a room": async (s) => {
        const { room_id } = await s.alice.createRoom({ preset: "private_chat", name: "Tea", topic: "leaves" });
        s.room = room_id;
        const room = await s.until(() => s.alice.getRoom(room_id));
        await s.until(() => room.name === "Tea" && room.getMyMembership() === "join");
        assert.deepEqual((await s.alice.getJoinedRooms()).joined_rooms, [room_id]);
    },

    "alice invites bob, who sees it": async (s) => {
        await s.alice.invite(s.room, s.ids.bob);
        const room = await s.until(() => s.bob.getRoom(s.room));
        await s.until(() => room.getMyMembership() === "invite");
        assert.equal(room.getMember(s.ids.bob).events.member.getSender(), s.ids.alice);
    },

    "bob joins, and both see both": async (s) => {
        await s.bob.joinRoom(s.room);
        for (const client of [s.alice, s.bob]) {
            await s.until(() => client.getRoom(s.room).getJoinedMemberCount() === 2);
            await s.until(() => client.getRoom(s.room).getMember(s.ids.bob)?.membership === "join");
        }
        assert.equal(s.bob.getRoom(s.room).getMember(s.ids.alice).name, "Alice");
        assert.deepEqual(Object.keys((await s.bob.getJoinedRoomMembers(s.room)).joined).sort(),
            [s.ids.alice, s.ids.bob].sort());
        assert.equal((await s.bob.members(s.room)).chunk.length, 2);
    },

    "alice writes, bob has the same event": async (s) => {
        s.first = await s.deliver(s.alice, s.bob, "hello bob");
    },

    "bob writes, alice has the same event": async (s) => {
        s.answer = await s.deliver(s.bob, s.alice, "hello alice");
    },

    "both write at once, nothing is lost or doubled": async (s) => {
        const texts = (name) => Array.from({ length: backlog }, (_, i) => `${name} ${i}`);
        const all = await Promise.all([
            ...texts("tea").map((text) => s.deliver(s.alice, s.bob, text)),
            ...texts("milk").map((text) => s.deliver(s.bob, s.alice, text)),
        ]);
        for (const client of [s.alice, s.bob]) {
            const ids = s.live_ids(client);
            for (const id of all) assert.equal(ids.filter((other) => other === id).length, 1, `${id} in a timeline`);
        }
        s.same(s.live_ids(s.alice).slice(-all.length), s.live_ids(s.bob).slice(-all.length), "order of events");
    },

    "a state change reaches the other": async (s) => {
        await s.alice.setRoomName(s.room, "Coffee");
        await s.until(() => s.bob.getRoom(s.room).name === "Coffee");
        assert.equal((await s.bob.getStateEvent(s.room, "m.room.name", "")).name, "Coffee");
        assert.ok((await s.bob.roomState(s.room)).some((event) => event.type === "m.room.create"));
    },

    "bob's second device pages back to the beginning": async (s) => {
        s.second = await s.live("bob", { initialSyncLimit: page });
        const room = await s.until(() => s.second.getRoom(s.room));
        const timeline = () => room.getLiveTimeline().getEvents();
        assert.ok(timeline().length <= page, "the first sync gave more than was asked for");
        while (timeline()[0].getType() !== "m.room.create") {
            const before = timeline().length;
            await s.second.scrollback(room, page);
            assert.ok(timeline().length > before, "a page added nothing");
        }
        const ids = timeline().map((event) => event.getId());
        assert.equal(new Set(ids).size, ids.length, "an event came twice");
        const seen = s.live_ids(s.alice);
        s.same(ids.slice(ids.indexOf(seen[0])), seen, "history differs from what alice saw live");
    },

    "one event and what is around it": async (s) => {
        assert.equal((await s.bob.fetchRoomEvent(s.room, s.first)).content.body, "hello bob");
        const path = `/rooms/${encodeURIComponent(s.room)}/context/${encodeURIComponent(s.answer)}`;
        const around = await s.bob.http.authedRequest("GET", path, { limit: 2 });
        assert.equal(around.event.event_id, s.answer);
        assert.equal(around.events_before[0].event_id, s.first);
    },

    "alice redacts, bob's copy is emptied": async (s) => {
        const id = await s.deliver(s.alice, s.bob, "take this back");
        await s.alice.redactEvent(s.room, id, undefined, { reason: "a slip" });
        const copy = s.bob.getRoom(s.room).findEventById(id);
        await s.until(() => copy.isRedacted() && copy.getContent().body === undefined);
        assert.deepEqual((await s.bob.fetchRoomEvent(s.room, id)).content, {});
    },

    "bob sees alice typing, and that she stopped": async (s) => {
        const alice = s.bob.getRoom(s.room).getMember(s.ids.alice);
        await s.alice.sendTyping(s.room, true, 20_000);
        await s.until(() => alice.typing);
        await s.alice.sendTyping(s.room, false, 0);
        await s.until(() => !alice.typing);
    },

    "alice sees bob's receipt": async (s) => {
        const id = await s.deliver(s.alice, s.bob, "have you read this?");
        await s.bob.sendReadReceipt(s.bob.getRoom(s.room).findEventById(id));
        const room = s.alice.getRoom(s.room);
        await s.until(() => room.getReceiptsForEvent(room.findEventById(id))
            .some((receipt) => receipt.userId === s.ids.bob && receipt.type === "m.read"));
    },

    "bob's private receipt and marker reach his other device only": async (s) => {
        const id = await s.deliver(s.alice, s.bob, "read this quietly");
        const event = await s.until(() => s.second.getRoom(s.room).findEventById(id));
        await s.bob.setRoomReadMarkers(s.room, id, undefined, s.bob.getRoom(s.room).findEventById(id));
        const room = s.second.getRoom(s.room);
        await s.until(() => room.getAccountData("m.fully_read")?.getContent().event_id === id);
        await s.until(() => room.getEventReadUpTo(s.ids.bob) === event.getId());
        await s.deliver(s.alice, s.bob, "bob's sync has passed it");
        const told = s.alice.getRoom(s.room).getReceiptsForEvent(s.alice.getRoom(s.room).findEventById(id));
        assert.ok(!told.some((receipt) => receipt.userId === s.ids.bob), "alice was told of a private receipt");
    },

    "account data and tags reach the other device": async (s) => {
        await s.bob.setAccountData("org.example.tea", { kind: "green" });
        await s.bob.setRoomTag(s.room, "m.favourite", { order: 0.5 });
        await s.bob.setRoomAccountData(s.room, "org.example.cup", { size: 2 });
        await s.until(() => s.second.getAccountData("org.example.tea")?.getContent().kind === "green");
        await s.until(() => s.second.getRoom(s.room).tags["m.favourite"]?.order === 0.5);
        await s.until(() => s.second.getRoom(s.room).getAccountData("org.example.cup")?.getContent().size === 2);
        assert.ok("m.favourite" in (await s.bob.getRoomTags(s.room)).tags);
        await s.bob.deleteRoomTag(s.room, "m.favourite");
        await s.until(() => !("m.favourite" in s.second.getRoom(s.room).tags));
    },

    "an alias leads to the room": async (s) => {
        const alias = `#${s.ids.alice.slice(1).replace(":", "-tea:")}`;
        await s.alice.createAlias(alias, s.room);
        assert.equal((await s.bob.getRoomIdForAlias(alias)).room_id, s.room);
        assert.deepEqual((await s.alice.getLocalAliases(s.room)).aliases, [alias]);
        await s.alice.deleteAlias(alias);
        await assert.rejects(s.bob.getRoomIdForAlias(alias), (err) => err.errcode === "M_NOT_FOUND");
    },

    "bob is kicked, comes back, is banned, let in again and leaves": async (s) => {
        const seen = (client) => client.getRoom(s.room)?.getMember(s.ids.bob)?.membership;
        const own = () => s.bob.getRoom(s.room)?.getMyMembership();
        const back = async () => {
            await s.alice.invite(s.room, s.ids.bob);
            await s.until(() => own() === "invite");
            await s.bob.joinRoom(s.room);
            await s.until(() => own() === "join" && seen(s.alice) === "join");
        };
        await s.alice.kick(s.room, s.ids.bob, "out");
        await s.until(() => own() === "leave" && seen(s.alice) === "leave");
        await back();
        await s.alice.ban(s.room, s.ids.bob, "and stay out");
        await s.until(() => own() === "ban" && seen(s.alice) === "ban");
        await assert.rejects(s.bob.joinRoom(s.room), (err) => err.errcode === "M_FORBIDDEN");
        await s.alice.unban(s.room, s.ids.bob);
        await s.until(() => seen(s.alice) === "leave");
        await back();
        await s.deliver(s.alice, s.bob, "welcome back");
        await s.bob.leave(s.room);
        await s.until(() => seen(s.alice) === "leave");
        await s.bob.forget(s.room);
        assert.deepEqual((await s.bob.getJoinedRooms()).joined_rooms, []);
    },

    "bob lists and names his devices": async (s) => {
        const device = s.second.getDeviceId();
        await s.bob.setDeviceDetails(device, { display_name: "kitchen" });
        const { devices } = await s.bob.getDevices();
        assert.equal(devices.find((other) => other.device_id === device).display_name, "kitchen");
        assert.equal((await s.bob.getDevice(device)).display_name, "kitchen");
    },

    "logging out ends a token at once": async (s) => {
        for (const client of [s.alice, s.bob]) client.stopClient();
        await s.alice.logout();
        await assert.rejects(s.alice.whoami(), (err) => err.errcode === "M_UNKNOWN_TOKEN");
        await s.bob.http.authedRequest("POST", "/logout/all");
        await assert.rejects(s.second.whoami(), (err) => err.errcode === "M_UNKNOWN_TOKEN", "a device survived /logout/all");
    },
};

// register makes an account for alice and for bob.
export async function register(s) {
    const run = Math.random().toString(36).slice(2, 8); // several runs may share a server
    for (const name of ["alice", "bob"]) {
        assert.ok(await s.anyone({}, name).isUsernameAvailable(`${name}-${run}`));
        s.ids[name] = await registerAs(s.anyone({}, name), `${name}-${run}`);
    }
}

// registerAs goes the two ways of user-interactive authentication: ask, then answer.
async function registerAs(client, username) {
    const asked = await client.registerRequest({ username, password, inhibit_login: true }).then(
        () => assert.fail("registered without being asked anything"), (err) => err);
    assert.equal(asked.httpStatus, 401, `${asked}`);
    assert.ok(asked.data.flows.some((flow) => flow.stages.includes("m.login.dummy")), "no flow that a client can do");
    const auth = { type: "m.login.dummy", session: asked.data.session };
    const { user_id } = await client.registerRequest({ username, password, inhibit_login: true, auth });
    return user_id;
}

// Story is what the steps share.
export class Story {
    ids = {};
    #clients = [];

    constructor(url, bobsURL, routes, owner) {
        this.urls = { alice: url, bob: bobsURL };
        this.routes = routes;
        this.owner = owner;
    }

    // tell runs steps, one after the other, and returns how many they were.
    async tell(steps, stepMs, log) {
        try {
            for (const [name, play] of Object.entries(steps)) {
                const start = Date.now();
                await this.play(name, play, stepMs);
                log(`${name} (${Date.now() - start} ms)`);
            }
        } finally {
            this.stop();
        }
        return Object.keys(steps).length;
    }

    // play runs a step; one that takes longer than ms fails.
    async play(name, step, ms) {
        const over = new AbortController();
        this.signal = over.signal;
        const late = sleep(ms, undefined, { signal: over.signal }).then(
            () => { throw new Error(`not done after ${ms} ms`); }, () => {});
        try {
            await Promise.race([step(this), late]);
        } catch (err) {
            throw new Error(`${name}: ${err.message}`, { cause: err });
        } finally {
            over.abort();
        }
    }

    // until waits for a condition to give something, and returns that.
    async until(condition) {
        for (const { signal } = this; ; await sleep(5)) {
            if (signal.aborted) throw new Error("the step is over");
            const value = await condition();
            if (value) return value;
        }
    }

    // anyone is a client of the server that a person is a user of.
    anyone(credentials = {}, person = "alice") {
        return sdk.createClient({ baseUrl: this.urls[person], fetchFn: this.routes.fetch, logger: quiet, ...credentials });
    }

    async logIn(user, password, person, more = {}) {
        const { user_id: userId, device_id: deviceId, access_token: accessToken } = await this.anyone({}, person).loginRequest({
            type: "m.login.password", identifier: { type: "m.id.user", user }, password,
        });
        return this.anyone({ userId, deviceId, accessToken, ...more }, person);
    }

    // live logs a person in on a new device and returns it when it syncs.
    async live(person, options = {}) {
        return this.start(await this.logIn(this.ids[person], password, person), options);
    }

    // secret is live for a device with keys of its own. key gives the key to the person's secrets.
    async secret(person, key) {
        const getSecretStorageKey = async ({ keys }) => [Object.keys(keys)[0], key().privateKey];
        const client = await this.logIn(this.ids[person], password, person, { cryptoCallbacks: { getSecretStorageKey } });
        await client.initRustCrypto({ useIndexedDB: false });
        return this.start(client, {});
    }

    async start(client, options) {
        this.#clients.push(client);
        // Detached: a local echo never stands in for the event in a timeline.
        await client.startClient({ initialSyncLimit: 20, pendingEventOrdering: "detached", ...options });
        await this.until(() => client.getSyncState() === "SYNCING");
        return client;
    }

    // deliver sends a text and returns its event id once the other has that very event.
    async deliver(from, to, body) {
        const { event_id } = await from.sendTextMessage(this.room, body);
        const event = await this.until(() => to.getRoom(this.room)?.findEventById(event_id));
        assert.equal(event.getSender(), from.getUserId());
        assert.equal(event.getContent().body, body);
        assert.equal(event.status, null, "a local echo");
        await this.until(() => from.getRoom(this.room).findEventById(event_id)?.status === null);
        return event_id;
    }

    // same compares events that alice and bob have; two servers each have an order of their own.
    same(some, others, message) {
        const ordered = (ids) => (this.urls.alice === this.urls.bob ? ids : ids.toSorted());
        assert.deepEqual(ordered(some), ordered(others), message);
    }

    live_ids(client) {
        return client.getRoom(this.room).getLiveTimeline().getEvents().map((event) => event.getId());
    }

    stop() {
        for (const client of this.#clients) client.stopClient();
    }
}
