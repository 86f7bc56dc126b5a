/** The API as an Express application: trust, rights, bodies, routes, errors. */
import type { TLSSocket } from 'node:tls';
import express, { type Express, type RequestHandler, Router } from 'express';
import { LxstowError } from '../contract/errors.ts';
import { excessOfJson } from '../contract/json.ts';
import { traceHeader, traceOf } from '../telemetry/trace.ts';
import { authorized, bodyAuthorized, unansweredAuthorized } from './access/access.ts';
import type { Client } from './access/apiClient.ts';
import { notAuthorized } from './access/apiClient.ts';
import { audited } from './access/audit.ts';
import type { Trust } from './access/trust.ts';
import type { GatewayParts } from './gatewayParts.ts';
import { bodyEndsSoon, respondToErrors } from './http/respond.ts';
import { expressPath, fullPath, type Method, type RouteGroup } from './http/route.ts';
import { enrol } from './routes/certificates.ts';
import { routeGroups } from './routes/table.ts';

export function createApp(parts: GatewayParts): Express {
  const { config, log } = parts;
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', 'simple');
  app.set('case sensitive routing', true);

  app.use((request, response, next) => {
    response.locals.trace = traceOf(request.get(traceHeader));
    next();
  });
  app.use(bodyEndsSoon);
  app.use(containersAreInstances);
  app.use(audited(parts.audit));
  app.use(guarded);
  app.use(identify(parts.trust));
  const trusted = onlyTrusted(parts.trust);
  // LXD's clients send JSON with any content type, and `""` for an empty body.
  const json = jsonUpTo(config.gateway.bodyLimitBytes);
  const strangersJson = jsonUpTo(Math.min(config.gateway.bodyLimitBytes, strangersBodyBytes));
  // Express would answer OPTIONS itself, in plain text and without a check of trust.
  app.options('/{*path}', trusted, nothingHere);
  register(app, routeGroups.filter(isForAnyone), parts, []);
  app.post('/1.0/certificates', ...[onlyStrangers, heard(parts.trust), strangersJson], (request, response) =>
    enrol(parts, request, response),
  );
  app.use(trusted);
  register(
    app,
    routeGroups.filter((group) => !isForAnyone(group)),
    parts,
    [json],
  );
  app.use(unansweredAuthorized(routeGroups, parts), unlessKnown(json), bodyAuthorized, nothingHere);
  app.use(respondToErrors(log, parts.absences));
  return app;
}

/** Registers the routes: for each, first the check of the right, then reading the body, then the route itself. */
function register(app: Express, groups: RouteGroup[], parts: GatewayParts, readBody: RequestHandler[]): void {
  for (const group of groups) {
    const router = Router({ mergeParams: true });
    for (const route of group.routes) {
      const before = route.least === 'anyone' ? [] : [authorized(route, parts)];
      const body = route.readsBody ? [] : [...readBody, bodyAuthorized];
      const method = route.method.toLowerCase() as Lowercase<Method>;
      router[method](expressPath(route.path), ...before, ...body, async (request, response) => {
        await route.run(parts, request, response);
      });
    }
    app.use(expressPath(group.path) || '/', router);
  }
}

function isForAnyone({ routes }: RouteGroup): boolean {
  return routes.every(({ least }) => least === 'anyone');
}

/** Old clients use LXD's old paths, which are for containers only. */
const containersAreInstances: RequestHandler = (request, _response, next) => {
  const [, rest] = /^\/1\.0\/containers(?=[/?]|$)(.*)$/s.exec(request.url) ?? [];
  if (rest !== undefined) {
    request.url = `/1.0/instances${rest}`;
    if (/^\/?(\?|$)/.test(rest)) request.url += `${rest.includes('?') ? '&' : '?'}instance-type=container`;
  }
  next();
};

/** The methods of each path, for calls that no route answers. */
const methods = [
  ...Map.groupBy(
    routeGroups.flatMap((group) =>
      group.routes.map((route) => ({ path: fullPath(group, route), method: route.method })),
    ),
    ({ path }) => path,
  ),
].map(([path, routes]) => {
  const pattern = path.replaceAll('.', '\\.').replaceAll(/{\w+}/g, '[^/]+').replace(/\/$/, '');
  // Express also answers HEAD for every GET.
  const allowed = routes.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method]));
  return { pattern: new RegExp(`^${pattern}/?$`), allowed };
});

function allowedOn(path: string): string[] | undefined {
  return methods.find(({ pattern }) => pattern.test(path))?.allowed;
}

/**
 * Refuses requests of pages from another origin, because a browser sends the client's certificate with them, too. Does not set Strict-Transport-Security, which would apply to
 * every port of this host, including the store's console.
 */
const guarded: RequestHandler = (request, response, next) => {
  response.set({
    'cache-control': 'no-store',
    'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
    'cross-origin-resource-policy': 'same-origin',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
  });
  const { origin, host } = request.headers;
  const foreign = origin !== undefined && origin !== `https://${host}`;
  next(foreign ? new LxstowError('forbidden', `pages of ${origin} may not use this API`) : undefined);
};

function identify(trust: Trust): RequestHandler {
  return async (request, response, next) => {
    const client = await trust.client(request.socket as TLSSocket);
    response.locals.client = client;
    const enrols = request.method === 'POST' && /^\/1\.0\/certificates\/?$/.test(request.path);
    if (client && !client.trusted && !enrols) trust.refused(request.socket.remoteAddress);
    next();
  };
}

function onlyTrusted(trust: Trust): RequestHandler {
  return (request, response, next) => {
    const client: Client | undefined = response.locals.client;
    if (client?.trusted) return next();
    trust.assertHeard({ req: request, res: response });
    if (!client) trust.refused(request.socket.remoteAddress);
    next(notAuthorized());
  };
}

const onlyStrangers: RequestHandler = (_request, response, next) => {
  next(response.locals.client?.trusted ? 'route' : undefined);
};

/** Counts an enrolment before its body is read, so that wrong bodies count, too. */
function heard(trust: Trust): RequestHandler {
  return (request, response, next) => {
    trust.assertHeard({ req: request, res: response }, 'enrolments');
    trust.enrolling(request);
    next();
  };
}

const nothingHere: RequestHandler = (request, response, next) => {
  const { method, path } = request;
  const allowed = allowedOn(path);
  if (!allowed) return next(new LxstowError('not-found', 'not found'));
  response.set('allow', allowed.join(', '));
  next(new LxstowError('method-not-allowed', `${method} is not allowed on ${path}; allowed: ${allowed.join(', ')}`));
};

const bodyTimeoutMs = 60_000;
/** A certificate and a token have 32 KiB each at most. */
const strangersBodyBytes = 64 * 1024;

function jsonUpTo(limit: number): RequestHandler {
  const verify = (_request: unknown, _response: unknown, body: Buffer) => {
    const excess = excessOfJson(body);
    if (excess !== undefined) throw Object.assign(new Error(`body: ${excess}`), { status: 400 });
  };
  return onBody(express.json({ type: () => true, strict: false, limit, verify }));
}

/** Parses the body of POST, PUT and PATCH only; other methods have none that matters. */
function onBody(parse: RequestHandler): RequestHandler {
  return (request, response, next) => {
    if (!['POST', 'PUT', 'PATCH'].includes(request.method)) return next();
    const tooSlow = setTimeout(() => request.destroy(), bodyTimeoutMs);
    parse(request, response, (error) => {
      clearTimeout(tooSlow);
      next(error);
    });
  };
}

/** Skips the handler for known paths, so that a wrong method is a 405 whatever the body is. */
function unlessKnown(handler: RequestHandler): RequestHandler {
  return (request, response, next) => (allowedOn(request.path) ? next() : handler(request, response, next));
}
