// Which route of the specification a request of the SDK goes to, so that one can be taken away.

const patterns = [
    [/\/rooms\/[^/]+\/send\/[^/]+\/[^/]+$/, "/rooms/{roomId}/send/{eventType}/{txnId}"],
    [/\/rooms\/[^/]+\/redact\/[^/]+\/[^/]+$/, "/rooms/{roomId}/redact/{eventId}/{txnId}"],
    [/\/rooms\/[^/]+\/state\/[^/]+(\/[^/]*)?$/, "/rooms/{roomId}/state/{eventType}/{stateKey}"],
    [/\/rooms\/[^/]+\/typing\/[^/]+$/, "/rooms/{roomId}/typing/{userId}"],
    [/\/rooms\/[^/]+\/receipt\/[^/]+\/[^/]+$/, "/rooms/{roomId}/receipt/{receiptType}/{eventId}"],
    [/\/rooms\/[^/]+\/(event|context)\/[^/]+$/, "/rooms/{roomId}/$1/{eventId}"],
    [/\/join\/[^/]+$/, "/join/{roomIdOrAlias}"],
    [/\/directory\/room\/[^/]+$/, "/directory/room/{roomAlias}"],
    [/\/user\/[^/]+\/rooms\/[^/]+\/tags\/[^/]+$/, "/user/{userId}/rooms/{roomId}/tags/{tag}"],
    [/\/user\/[^/]+\/rooms\/[^/]+\/tags$/, "/user/{userId}/rooms/{roomId}/tags"],
    [/\/user\/[^/]+\/rooms\/[^/]+\/account_data\/[^/]+$/, "/user/{userId}/rooms/{roomId}/account_data/{type}"],
    [/\/user\/[^/]+\/account_data\/[^/]+$/, "/user/{userId}/account_data/{type}"],
    [/\/user\/[^/]+\/filter$/, "/user/{userId}/filter"],
    [/\/user\/[^/]+\/filter\/[^/]+$/, "/user/{userId}/filter/{filterId}"],
    [/\/profile\/[^/]+\/[^/]+$/, "/profile/{userId}/{keyName}"],
    [/\/profile\/[^/]+$/, "/profile/{userId}"],
    [/\/devices\/[^/]+$/, "/devices/{deviceId}"],
    [/\/rooms\/[^/]+\/([a-z_]+)$/, "/rooms/{roomId}/$1"],
];

// route names the route of a request: "PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}".
export function route(method, url) {
    const path = new URL(url).pathname;
    for (const [pattern, template] of patterns) {
        if (pattern.test(path)) return `${method} ${path.replace(pattern, template)}`;
    }
    return `${method} ${path}`;
}

// Routes is a fetch that notes which routes worked, and answers for one of them as a server that lacks it.
export class Routes {
    worked = new Set();

    constructor(without) {
        this.without = without;
    }

    fetch = async (url, options = {}) => {
        const name = route(options.method ?? "GET", url);
        if (name === this.without) {
            return Response.json({ errcode: "M_UNRECOGNIZED", error: "taken away" }, { status: 404 });
        }
        const answer = await fetch(url, options);
        if (answer.ok) this.worked.add(name);
        return answer;
    };
}
