/** The API as an Express application: trust, bodies, routes, errors. */
import type { TLSSocket } from 'node:tls';
import express, { type Express, type RequestHandler } from 'express';
import openapi from '../../docs/openapi.json' with { type: 'json' };
import { LxstowError } from '../contract/errors.ts';
import { excessOfJson } from '../contract/json.ts';
import { traceHeader, traceOf } from '../telemetry/trace.ts';
import { authorized, bodyAuthorized } from './access/access.ts';
import type { Client } from './access/apiClient.ts';
import { audited } from './access/audit.ts';
import type { Trust } from './access/trust.ts';
import type { GatewayParts } from './gatewayParts.ts';
import { respondToErrors } from './http/respond.ts';
import { backupRoutes } from './routes/backups.ts';
import { certificateRoutes, enrolment } from './routes/certificates.ts';
import { eventRoutes } from './routes/events.ts';
import { exportRoutes } from './routes/exports.ts';
import { instanceRoutes } from './routes/instances.ts';
import { operationRoutes } from './routes/operations.ts';
import { poolRoutes, projectRoutes } from './routes/places.ts';
import { runRoutes } from './routes/runs.ts';
import { serverRoutes } from './routes/server.ts';
import { statusRoutes } from './routes/status.ts';
import { uploadRoutes } from './routes/uploads.ts';

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
  app.use(containersAreInstances);
  app.use(audited(parts.audit));
  app.use(guarded);
  app.use(identify(parts.trust));
  const trusted = onlyTrusted(parts.trust);
  // LXD's clients send JSON under any type, and `""` where they mean nothing.
  const json = jsonUpTo(config.gateway.bodyLimitBytes);
  const strangersJson = jsonUpTo(Math.min(config.gateway.bodyLimitBytes, strangersBodyBytes));
  // Express would answer these by itself, in plain text and for anybody.
  app.options('/{*path}', trusted, nothingHere);
  app.use(serverRoutes(parts));
  app.post('/1.0/certificates', onlyStrangers, heard(parts.trust), strangersJson, enrolment(parts));
  app.use(trusted);
  app.get('/1.0/openapi.json', (_request, response) => void response.json(openapi));
  app.use(authorized(parts.operations, parts.runs));
  app.use('/1.0/instances', uploadRoutes(parts));
  app.use(json, bodyAuthorized);
  app.use('/1.0/certificates', certificateRoutes(parts));
  app.use('/1.0/instances/:instance/backups', backupRoutes(parts), exportRoutes(parts));
  app.use('/1.0/instances', instanceRoutes(parts));
  app.use('/1.0/operations', operationRoutes(parts));
  app.use('/1.0/runs', runRoutes(parts));
  app.use('/1.0/events', eventRoutes(parts));
  app.use('/1.0/status', statusRoutes(parts));
  app.use('/1.0/projects', projectRoutes(parts));
  app.use('/1.0/storage-pools', poolRoutes(parts));
  app.use(nothingHere);
  app.use(respondToErrors(log, parts.absences));
  return app;
}

/** LXD's old paths, which name containers alone; old clients use them. */
const containersAreInstances: RequestHandler = (request, _response, next) => {
  const [, rest] = /^\/1\.0\/containers(?=[/?]|$)(.*)$/s.exec(request.url) ?? [];
  if (rest !== undefined) {
    request.url = `/1.0/instances${rest}`;
    if (/^\/?(\?|$)/.test(rest)) request.url += `${rest.includes('?') ? '&' : '?'}instance-type=container`;
  }
  next();
};

/** Known paths and their methods, for the answer to all others. */
const methods = Object.entries(openapi.paths).map(([path, calls]) => {
  const pattern = path.replaceAll('.', '\\.').replaceAll(/{\w+}/g, '[^/]+').replace(/\/$/, '');
  const allowed = Object.keys(calls).filter((each) => each !== 'parameters');
  // Express answers HEAD wherever it answers GET.
  const answered = allowed.flatMap((method) => (method === 'get' ? ['GET', 'HEAD'] : [method.toUpperCase()]));
  return [new RegExp(`^${pattern}/?$`), answered] as const;
});

function allowedOn(path: string): string[] | undefined {
  return methods.find(([pattern]) => pattern.test(path))?.[1];
}

/**
 * What browsers are told, and asked: one that has a client's certificate shows it for every page's sake, so a page of another origin
 * gets nothing. No Strict-Transport-Security: it would hold for every port of this host, the store's console among them.
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
    next(new LxstowError('forbidden', 'not authorized'));
  };
}

const onlyStrangers: RequestHandler = (_request, response, next) => {
  next(response.locals.client?.trusted ? 'route' : undefined);
};

/** Counted before the body is read: what is wrong in a body is not free either. */
function heard(trust: Trust): RequestHandler {
  return (request, response, next) => {
    trust.assertHeard({ req: request, res: response }, 'enrolments');
    trust.enrolling(request.socket.remoteAddress);
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

/** Bodies mean something on POST, PUT and PATCH only. */
function onBody(parse: RequestHandler): RequestHandler {
  return (request, response, next) => {
    if (!['POST', 'PUT', 'PATCH'].includes(request.method)) return next();
    // What is not allowed is told so, whatever its body is.
    if (allowedOn(request.path)?.includes(request.method) === false) return next();
    const tooSlow = setTimeout(() => request.destroy(), bodyTimeoutMs);
    parse(request, response, (error) => {
      clearTimeout(tooSlow);
      next(error);
    });
  };
}
