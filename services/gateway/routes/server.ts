/** What the server is: GET / and GET /1.0, the only answers for those who are not trusted. */
import { Router } from 'express';
import { fingerprintOf } from '../../trust/certificates.ts';
import { version } from '../../version.ts';
import type { GatewayParts } from '../app.ts';
import { sync } from '../respond.ts';
import type { Client } from '../trust.ts';

/** LXD's words for what this API has in common with LXD's. */
const extensions = [
  'instances',
  'container_backup',
  'projects',
  'certificate_token',
  'explicit_trust_token',
  'backup_override_name',
  'container_backup_override_pool',
  'certificate_update',
  'certificate_project',
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
