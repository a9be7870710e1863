// A TLS server of Node's: takes one connection of a client that it verifies, and answers it in capitals.
// Arguments: group, identity folder. Prints the port, then who connected, each a JSON line.
'use strict';
const fs = require('fs');
const tls = require('tls');

const [group, folder] = process.argv.slice(2);
const say = (facts) => console.log(JSON.stringify(facts));
const server = tls.createServer({
  cert: fs.readFileSync(`${folder}/tls.pem`),
  key: fs.readFileSync(`${folder}/tls.key`),
  ca: fs.readFileSync(`${folder}/ca.pem`),
  requestCert: true,
  rejectUnauthorized: true,
  minVersion: 'TLSv1.3',
  ecdhCurve: group,
});
server.on('secureConnection', (socket) => {
  say({
    event: 'connection',
    authorized: socket.authorized,
    protocol: socket.getProtocol(),
    names: socket.getPeerCertificate().subjectaltname,
  });
  socket.on('data', (data) => socket.write(data.toString().toUpperCase()));
  socket.on('end', () => {
    socket.end();
    server.close();
  });
});
server.on('tlsClientError', (error) => say({ event: 'error', code: error.code, message: error.message }));
server.listen(0, '127.0.0.1', () => say({ event: 'listening', port: server.address().port }));
