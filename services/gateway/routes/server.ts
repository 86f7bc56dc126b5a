/** What the server is: GET / and GET /1.0, the only answers for those who are not trusted. */
import { Router } from 'express';
import { version } from '../../contract/version.ts';
import { fingerprintOf } from '../../trust/certificates.ts';
import type { Client } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { sync } from '../http/respond.ts';

/** LXD's words for what this API has in common with LXD's. */
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

export function serverRoutes({ certificate }: GatewayParts): Router {
  const router = Router();
  const fingerprint = fingerprintOf(certificate.cert);

  router.get('/', (_request, response) => sync(response, ['/1.0']));

  router.get('/1.0', (_request, response) => {
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
          certificate_fingerprint: fingerprint,
        },
      }),
    });
  });

  return router;
}
