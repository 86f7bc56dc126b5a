/** GET / and GET /1.0, the only routes that answer untrusted clients, and the description of the API. */
import type { Request, Response } from 'express';
import { readOpenapi } from '../../contract/openapi.ts';
import { version } from '../../contract/version.ts';
import { fingerprintOf } from '../../trust/certificates.ts';
import type { Client } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { sync } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';

/** LXD's names for the API extensions that this API supports, too. */
const extensions = [
  'api_filtering',
  'backup_override_name',
  'certificate_project',
  'certificate_token',
  'certificate_update',
  'container_backup',
  'container_backup_override_pool',
  'container_full',
  'explicit_trust_token',
  'instance_all_projects',
  'instance_get_full',
  'instances',
  'operations_get_query_all_projects',
  'projects',
  'storage',
];

export const serverRoutes: RouteGroup = {
  path: '',
  routes: [
    { method: 'GET', path: '/', least: 'anyone', projects: 'checkedByRoute', run: showVersions },
    { method: 'GET', path: '/1.0', least: 'anyone', projects: 'checkedByRoute', run: showServer },
  ],
};

export const openapiRoutes: RouteGroup = {
  path: '/1.0/openapi.json',
  routes: [{ method: 'GET', path: '/', least: 'viewer', projects: 'checkedByRoute', run: showOpenapi }],
};

function showVersions(_parts: GatewayParts, _request: Request, response: Response): void {
  sync(response, ['/1.0']);
}

async function showOpenapi(_parts: GatewayParts, _request: Request, response: Response): Promise<void> {
  response.type('json').send(await readOpenapi());
}

function showServer({ certificate }: GatewayParts, _request: Request, response: Response): void {
  const { client } = response.locals as { client?: Client };
  const trusted = client?.trusted === true;
  sync(response, {
    api_extensions: extensions,
    api_status: 'stable',
    api_version: '1.0',
    auth: trusted ? 'trusted' : 'untrusted',
    public: false,
    auth_methods: ['tls'],
    ...(trusted && {
      auth_user_name: client?.fingerprint,
      auth_user_method: 'tls',
      config: {},
      environment: {
        server: 'lxstow',
        server_version: version,
        certificate: certificate.cert,
        certificate_fingerprint: fingerprintOf(certificate.cert),
      },
    }),
  });
}
