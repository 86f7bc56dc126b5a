/** Routes that list, add, change and remove trusted certificates, and make tokens with which clients add themselves. */

import { X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import type { Request, Response } from 'express';
import { hourMs } from '../../contract/durations.ts';
import { LxstowError } from '../../contract/errors.ts';
import {
  type CertificatePutBody,
  type CertificatesPostBody,
  check,
  type TrustedCertificate,
} from '../../contract/schemas.ts';
import { projectsText, unknownProjects } from '../../hosts/knownProjects.ts';
import {
  changedGrant,
  commonName,
  fingerprintOf,
  type Grant,
  newGrant,
  parseCertificate,
  trustedCertificate,
} from '../../trust/certificates.ts';
import { decodeToken, newToken } from '../../trust/tokens.ts';
import type { StoredCertificate } from '../../trust/trustStore.ts';
import { clientOf, isAdmin, notAuthorized } from '../access/apiClient.ts';
import { noteForAudit } from '../access/audit.ts';
import { wrongTokenWeight } from '../access/refusalLimit.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { bodyOf, query, requestorOf } from '../http/requests.ts';
import { created, started, sync } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { tokenOperation } from '../views/tokenOperation.ts';

export const certificateRoutes: RouteGroup = {
  path: '/1.0/certificates',
  routes: [
    // A client sees its own certificate; only admins see others.
    { method: 'GET', path: '/', least: 'viewer', projects: 'checkedByRoute', run: listCertificates },
    { method: 'POST', path: '/', least: 'admin', projects: 'unrestrictedOnly', run: addCertificate },
    { method: 'GET', path: '/{fingerprint}', least: 'viewer', projects: 'checkedByRoute', run: showCertificate },
    { method: 'PUT', path: '/{fingerprint}', least: 'admin', projects: 'unrestrictedOnly', run: putCertificate },
    { method: 'PATCH', path: '/{fingerprint}', least: 'admin', projects: 'unrestrictedOnly', run: patchCertificate },
    { method: 'DELETE', path: '/{fingerprint}', least: 'admin', projects: 'unrestrictedOnly', run: removeCertificate },
  ],
};

async function listCertificates(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { trust, trustStore } = parts;
  const client = clientOf(request);
  const stored = (await trustStore.certificates()).map(({ certificate }) => certificate);
  const known = new Set(stored.map(({ fingerprint }) => fingerprint));
  const listed = (await trust.inDirectory()).filter(({ fingerprint }) => !known.has(fingerprint));
  const seen = [...stored, ...listed]
    .filter(({ fingerprint }) => isAdmin(client) || fingerprint === client.fingerprint)
    .sort((a, b) => a.name.localeCompare(b.name));
  sync(response, query(request, 'recursion') === '1' ? seen.map(shown) : seen.map(pathOf));
}

async function addCertificate(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config, trustStore } = parts;
  const body = check('http-certificates-post.json', bodyOf(request), 'body');
  const grant = newGrant(body);
  await assertProjects(parts, grant.projects);
  if (!body.token) return add(parts, request, response, body, grant);
  if (body.certificate) throw new LxstowError('bad-request', "Can't use certificate if token is requested");
  if (!body.name) throw new LxstowError('bad-request', 'body: a token needs the name of its client');
  const expires = body.expires_at
    ? new Date(body.expires_at)
    : new Date(Date.now() + config.gateway.tokenExpiryHours * hourMs);
  const { token, secret } = newToken(body.name, grant, await parts.place(), expires);
  await trustStore.addToken(token, secret);
  noteForAudit(response, { name: token.name, grant, expires: token.expires_at });
  started(response, token.id, tokenOperation(token, secret));
}

async function showCertificate(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const client = clientOf(request);
  // Check before looking up, so that other clients do not learn which certificates exist.
  if (!isAdmin(client) && !client.fingerprint.startsWith(prefixOf(request))) throw notAuthorized();
  const { certificate, revision } = await find(parts, request);
  if (!isAdmin(client) && certificate.fingerprint !== client.fingerprint) throw notAuthorized();
  response.set('etag', etagOf(revision));
  sync(response, shown(certificate));
}

function putCertificate(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  return change(parts, request, response, ({ restricted, projects, role }, before) => {
    // LXD reads a missing field as false, which would lift a restriction by accident.
    if (restricted === undefined) throw new LxstowError('bad-request', 'body: restricted is missing');
    return changedGrant(before, { restricted, projects: projects ?? [], role });
  });
}

function patchCertificate(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  return change(parts, request, response, (body, before) =>
    changedGrant(before, { ...body, ...(body.restricted === false && { projects: [] }) }),
  );
}

async function change(
  parts: GatewayParts,
  request: Request,
  response: Response,
  grantOf: (body: CertificatePutBody, before: TrustedCertificate) => Grant,
): Promise<void> {
  const { trustStore, trustCopy } = parts;
  const body = check('http-certificate-put.json', bodyOf(request), 'body');
  for (;;) {
    const { certificate: before, revision } = await findStored(parts, request);
    const ifMatch = request.get('if-match');
    if (ifMatch !== undefined && ifMatch !== '*' && ifMatch !== etagOf(revision))
      throw new LxstowError('precondition-failed', "ETag doesn't match");
    if (body.certificate && fingerprintOf(parseCertificate(body.certificate)) !== before.fingerprint)
      throw new LxstowError('bad-request', 'a certificate cannot be replaced: add the new one, and remove the old one');
    const after = { ...before, name: body.name || before.name, ...grantOf(body, before) };
    if (body.projects) await assertProjects(parts, after.projects);
    leaveIfOwn(parts, request, response, before.fingerprint);
    noteForAudit(response, { fingerprint: after.fingerprint, name: after.name, grant: newGrant(after) });
    if (!(await trustStore.update(after, revision))) continue;
    await trustCopy.refresh(after.fingerprint);
    return sync(response);
  }
}

async function removeCertificate(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { trustStore, trustCopy } = parts;
  const { certificate } = await findStored(parts, request);
  leaveIfOwn(parts, request, response, certificate.fingerprint);
  noteForAudit(response, { fingerprint: certificate.fingerprint, name: certificate.name });
  await trustStore.revoke(certificate, requestorOf(request));
  await trustCopy.refresh(certificate.fingerprint);
  sync(response);
}

async function find({ trust, trustStore }: GatewayParts, request: Request): Promise<StoredCertificate> {
  const wanted = prefixOf(request);
  const listed = (await trust.inDirectory()).filter(({ fingerprint }) => fingerprint.startsWith(wanted));
  try {
    return await trustStore.find(wanted);
  } catch (error) {
    const [certificate] = listed;
    if (certificate && listed.length === 1) return { certificate, revision: 0 };
    throw error;
  }
}

async function findStored(parts: GatewayParts, request: Request): Promise<StoredCertificate> {
  const found = await find(parts, request);
  if (found.revision === 0)
    throw new LxstowError(
      'bad-request',
      `certificate ${found.certificate.fingerprint} is in gateway.trustDir: change its file there`,
    );
  return found;
}

function leaveIfOwn({ connections }: GatewayParts, request: Request, response: Response, fingerprint: string): void {
  if (clientOf(request).fingerprint === fingerprint) connections.leave(response);
}

/** Throws bad-request for a project that no host has. If a host does not answer, nothing is refused, because that host may have the project. */
async function assertProjects({ nats, config }: GatewayParts, projects: string[]): Promise<void> {
  const remotes = Object.keys(config.remotes);
  const found = await unknownProjects(nats, remotes, projects, config.gateway.askTimeoutMs);
  if (found.missing.length > 0 && found.silent.length === 0)
    throw new LxstowError('bad-request', projectsText(found, remotes));
}

/** Enrols an untrusted client: adds its connection's certificate in exchange for a token. The token sets name, role and projects. */
export async function enrol(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { trustStore, trust } = parts;
  const body = check('http-certificates-post.json', bodyOf(request), 'body');
  const refuse = (reason: string, answer = reason) => {
    trust.enrolling(request, wrongTokenWeight);
    noteForAudit(response, { reason });
    return new LxstowError('forbidden', answer);
  };
  const given = body.trust_token || body.password;
  if (!given) throw refuse('no token', 'not authorized');
  const certificate = ownCertificate(request);
  const token = decodeToken(given);
  if (!token) throw refuse('not a token', 'not authorized');
  const fingerprint = fingerprintOf(certificate);
  if (await trustStore.certificate(fingerprint))
    throw new LxstowError('conflict', 'Certificate already in trust store');
  // Check the certificate before using up the token.
  trustedCertificate(certificate, '', newGrant({}));
  const redeemed = await trustStore.redeem(token.secret, { ...requestorOf(request), username: fingerprint });
  if (!redeemed)
    throw refuse(
      token.expires && token.expires.getTime() <= Date.now()
        ? 'Token has expired'
        : 'No matching certificate add operation found',
    );
  noteForAudit(response, { token: redeemed.id });
  await store(parts, response, trustedCertificate(certificate, redeemed.name, grantOf(redeemed)));
}

async function add(
  parts: GatewayParts,
  request: Request,
  response: Response,
  { name, certificate: text }: CertificatesPostBody,
  grant: Grant,
): Promise<void> {
  const certificate = text ? parseCertificate(text) : ownCertificate(request);
  if (fingerprintOf(certificate) === clientOf(request).fingerprint) parts.connections.leave(response);
  const called = name || commonName(certificate) || request.socket.remoteAddress || fingerprintOf(certificate);
  await store(parts, response, trustedCertificate(certificate, called, grant));
}

async function store({ trustStore, trustCopy }: GatewayParts, response: Response, certificate: TrustedCertificate) {
  noteForAudit(response, { fingerprint: certificate.fingerprint, name: certificate.name, grant: grantOf(certificate) });
  await trustStore.add(certificate);
  await trustCopy.refresh(certificate.fingerprint);
  created(response, pathOf(certificate));
}

function ownCertificate(request: Request): X509Certificate {
  const shown = (request.socket as TLSSocket).getPeerX509Certificate();
  if (!shown) throw new LxstowError('bad-request', 'No client certificate provided');
  return new X509Certificate(shown.raw);
}

function grantOf({ role, restricted, projects }: Grant): Grant {
  return { role, restricted, projects };
}

function prefixOf(request: Request): string {
  const { fingerprint } = request.params as { fingerprint: string };
  if (!/^[0-9a-f]{1,64}$/.test(fingerprint)) throw new LxstowError('not-found', 'Certificate not found');
  return fingerprint;
}

function etagOf(revision: number): string {
  return `"${revision}"`;
}

function pathOf({ fingerprint }: TrustedCertificate): string {
  return `/1.0/certificates/${fingerprint}`;
}

function shown({ fingerprint, name, type, certificate, restricted, projects, role }: TrustedCertificate): object {
  return { fingerprint, name, type, certificate, restricted, projects, role };
}
